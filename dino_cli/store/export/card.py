"""The model card beside an exported file: what it is, where it is from, how its reader opens it."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from dino_cli.config.shared import Preprocessing
from dino_cli.core.network.architecture import (
    VIT_NAMES,
    Architecture,
    TimmArchitecture,
    VitArchitecture,
)

__all__ = ["Card", "Layout"]

Layout = Literal["reference", "timm", "huggingface", "onnx"]
TITLES = {
    "reference": "facebookresearch/dino's names (`.pth`)",
    "timm": "timm (`.safetensors`)",
    "huggingface": "Hugging Face transformers",
    "onnx": "ONNX",
}


@dataclass(frozen=True, kw_only=True)
class Card:
    """What a card says.

    file: of the export. parameters: their number. any_size: an ONNX file takes any image size.
    trained: settings of the `dino train` run. difference: of the ONNX file's outputs from torch's.
    """

    name: str
    file: Path
    layout: Layout
    architecture: Architecture
    parameters: int
    preprocessing: Preprocessing
    source: str
    source_sha256: str
    sha256: str
    licence: str
    half: bool
    features: str = "cls"
    attention: bool = False
    any_size: bool = True
    difference: float | None = None
    trained: Mapping[str, Any] | None = None

    def text(self) -> str:
        """Markdown; with the hub's front matter for a Hugging Face folder."""
        sections = [
            f"# {self.name}",
            f"{_capital(describe(self.architecture))}, {self.parameters / 1e6:.1f} M parameters, in"
            f" {'half' if self.half else 'single'} precision, for {TITLES[self.layout]}."
            " Written by `dino export`.",
            "\n".join(self._facts()),
            f"## Use\n```python\n{self.code()}\n```",
            *self._limits(),
        ]
        front = ""
        if self.layout == "huggingface":
            licence = f"license: {self.licence.lower()}\n" if self.licence else ""
            front = (
                f"---\nlibrary_name: transformers\npipeline_tag: image-feature-extraction\n"
                f"{licence}tags:\n- dino\n- self-supervised\n---\n"
            )
        return front + "\n\n".join(sections) + "\n"

    def code(self) -> str:
        """Python that opens the file with its own reader and gives `model` or `session`."""
        a, name = self.architecture, _literal(self.file.name)
        if self.layout == "onnx":
            lines = [
                "import onnxruntime",
                f"session = onnxruntime.InferenceSession({name})",
                "# images: float32 (B, C, height, width), normalised as above",
                "outputs = session.run(None, {'images': images})",
            ]
            return "\n".join(lines)
        if self.layout == "huggingface":
            bare = isinstance(a, VitArchitecture) and not (a.layer_scale or a.registers or a.swiglu)
            pooler = ", add_pooling_layer=False" if bare else ""
            lines = [
                "from transformers import AutoImageProcessor, AutoModel",
                f"processor = AutoImageProcessor.from_pretrained({name})",
                f"model = AutoModel.from_pretrained({name}{pooler}).eval()",
            ]
            return "\n".join(lines)
        if self.layout == "timm":
            return _timm_code(a, name)
        return _reference_code(a, name)

    def reading_options(self) -> list[str]:
        """What `dino` must be told to read the file as it was: names and shapes do not say it.

        Only the original's layout has no place for the number of heads and the preprocessing.
        """
        a, p = self.architecture, self.preprocessing
        if self.layout != "reference":
            return []
        told = []
        if isinstance(a, VitArchitecture) and a.heads * 64 != a.width:
            told += ["--heads", str(a.heads)]
        for flag, value, usual in (("--resize", p.resize, 256), ("--crop", p.crop, 224)):
            if isinstance(value, int) and value != usual:
                told += [flag, str(value)]
        return told

    def _facts(self) -> list[str]:
        p = self.preprocessing
        stretched = isinstance(p.resize, tuple)
        steps = []
        if p.resize is not None:
            how = f"to {p.resize[0]}x{p.resize[1]}" if stretched else f"short side to {p.resize}"  # type: ignore[index]
            steps.append(f"resize {how} px ({p.interpolation}, antialiased)")
        if p.crop is not None:
            side = f"{p.crop[0]}x{p.crop[1]}" if isinstance(p.crop, tuple) else p.crop
            steps.append(f"cut the central {side} px")
        scale = "by the type's largest number" if p.own_depth else "to [0, 1]"
        steps.append(f"scale {scale}, subtract {list(p.mean)} and divide by {list(p.std)}")
        stored = "model.safetensors" if self.layout == "huggingface" else self.file.name
        facts = [
            f"- **Source**: `{self.source}`, SHA-256 `{self.source_sha256}`",
            f"- **SHA-256** of `{stored}`: `{self.sha256}`",
            f"- **Licence**: {self.licence or 'not stated by the source'}",
            f"- **Preprocessing**: {'; '.join(steps)}",
        ]
        if self.trained:
            shown = ", ".join(f"{key} {json.dumps(value)}" for key, value in self.trained.items())
            facts.append(f"- **Trained** by `dino train`: {shown}")
        if self.difference is not None:
            facts.append(
                f"- **Checked** in onnxruntime: outputs within {self.difference:.1g} of torch's"
            )
        return facts

    def _limits(self) -> list[str]:
        a, lines = self.architecture, []
        if options := " ".join(self.reading_options()):
            lines.append(f"`dino` reads it with `--weights {self.file.name} {options}`.")
        if isinstance(a, VitArchitecture) and self.layout != "onnx":
            size = "x".join(str(side * a.patch_size) for side in a.grid)
            exact = {
                "reference": a.positions == "dino",
                "timm": a.positions == "timm",
                "huggingface": a.positions == ("timm" if a.registers else "size"),
            }[self.layout]
            if not exact and not (self.layout == "timm" and a.conv_stem):
                lines.append(
                    f"Features equal `dino`'s at {size} px. At other sizes this reader resamples"
                    " the position embedding in its own way, which moves them slightly."
                )
            if self.layout == "reference" and a.eps != 1e-6:
                lines.append(
                    f"The weights were made with a LayerNorm eps of {a.eps:g}; this reader uses"
                    " 1e-06, which moves features by up to about 1e-5."
                )
        if self.layout == "onnx" and not self.any_size:
            lines.append("The graph takes one image size only, any number of images.")
        return ["## Limits\n" + "\n".join(lines)] if lines else []


def _capital(text: str) -> str:
    return text[0].upper() + text[1:] if text.startswith("vision") else text


def describe(architecture: Architecture) -> str:
    """ "vit_small, patch 16, 14x14 positions", for people."""
    a = architecture
    if isinstance(a, TimmArchitecture):
        return f"timm's {a.name}"
    name = VIT_NAMES.get(a.size, f"vision transformer of width {a.width}, depth {a.depth}")
    extras = [
        f"{a.heads} heads",
        f"patch {a.patch_size}",
        f"{a.grid[0]}x{a.grid[1]} positions",
        *(["layer scale"] if a.layer_scale else []),
        *([f"{a.registers} registers"] if a.registers else []),
        *(["SwiGLU"] if a.swiglu else []),
        *(["convolutional stem"] if a.conv_stem else []),
    ]
    return ", ".join([name, *extras])


def _literal(text: str) -> str:
    """The text as Python spells it, in double quotes where these will do."""
    plain = text.isprintable() and not set(text) & {'"', "\\"}
    return f'"{text}"' if plain else repr(text)


def _reference_code(a: Architecture, name: str) -> str:
    load = f"model.load_state_dict(torch.load({name}, weights_only=True), strict=True)"
    if isinstance(a, TimmArchitecture):
        if a.name.startswith("xcit"):
            entry = a.name.removesuffix("_224").removesuffix("_384")
            made = [f"model = torch.hub.load('facebookresearch/xcit', '{entry}', num_classes=0)"]
            return "\n".join(["import torch", *made, load])
        made = ["import torchvision", "model = torchvision.models.resnet50()"]
        return "\n".join(["import torch", *made, "model.fc = torch.nn.Identity()", load])
    size = a.grid[0] * a.patch_size
    named = VIT_NAMES.get(a.size) if a.mlp_ratio == 4 else None
    arguments = f"patch_size={a.patch_size}, img_size=[{size}], num_classes=0"
    if a.in_chans != 3:
        arguments += f", in_chans={a.in_chans}"
    if named:
        made = [f"model = vits.{named}({arguments})"]
    else:
        shape = f"embed_dim={a.width}, depth={a.depth}, num_heads={a.heads}"
        made = [
            "from functools import partial",
            f"model = vits.VisionTransformer({arguments}, {shape}, mlp_ratio={a.mlp_ratio:g},",
            "    qkv_bias=True, norm_layer=partial(torch.nn.LayerNorm, eps=1e-6))",
        ]
    where = "import vision_transformer as vits  # in a checkout of facebookresearch/dino"
    return "\n".join(["import torch", where, *made, load])


def _timm_code(a: Architecture, name: str) -> str:
    if isinstance(a, VitArchitecture) and a.conv_stem:  # which timm does not build
        lines = ["import dino_cli", f"model = dino_cli.load_model(weights={name}).backbone.net"]
        return "\n".join(lines)
    arguments: dict[str, str] = {"num_classes": "0"}
    extra = []
    if isinstance(a, TimmArchitecture):
        base = a.name
        arguments |= {key: repr(value) for key, value in a.arguments.items()}
    else:
        base = "vit_small_patch16_224"
        arguments |= {
            "img_size": repr(tuple(side * a.patch_size for side in a.grid)),
            "patch_size": repr(a.patch_size),
            "embed_dim": repr(a.width),
            "depth": repr(a.depth),
            "num_heads": repr(a.heads),
            "mlp_ratio": repr(a.mlp_ratio),
            "dynamic_img_size": "True",
        }
        if a.layer_scale:
            arguments["init_values"] = "1e-5"
        if a.registers or not a.embed_class:
            arguments |= {
                "reg_tokens": repr(a.registers),
                "no_embed_class": repr(not a.embed_class),
            }
        if a.swiglu:
            extra.append("from timm.layers import SwiGLUPacked")
            arguments |= {"mlp_layer": "SwiGLUPacked", "act_layer": "torch.nn.SiLU"}
        if a.eps != 1e-6:
            extra.append("from functools import partial")
            arguments["norm_layer"] = f"partial(torch.nn.LayerNorm, eps={a.eps!r})"
    if a.in_chans != 3:
        arguments["in_chans"] = repr(a.in_chans)
    listed = ",\n    ".join(f"{key}={value}" for key, value in arguments.items())
    given = f'"{base}",\n    checkpoint_path={name},\n    {listed},'
    call = f"model = timm.create_model(\n    {given}\n)"
    return "\n".join(["import timm", "import torch", *extra, f"{call}.eval()"])

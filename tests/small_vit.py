"""A small random ViT of three heads, photos of a disc, and a short video, for tests of commands."""

import json
from dataclasses import asdict
from pathlib import Path

import cv2
import numpy as np
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from typer.testing import CliRunner

from dino_cli.cli.app import app
from dino_cli.config.shared import Preprocessing
from dino_cli.core.network.architecture import VitArchitecture, architecture_to_json
from dino_cli.core.network.backbone import build

ARCHITECTURE = VitArchitecture(width=24, depth=2, heads=3, patch_size=8, grid=(4, 4))
SIDE, PATCH = 48, 8


def small_vit() -> torch.nn.Module:
    torch.manual_seed(0)
    net = build(ARCHITECTURE).eval()
    with torch.no_grad():
        for name, tensor in net.named_parameters():
            if name.endswith(("qkv.weight", "proj.weight")):
                tensor.normal_(0, 0.2)
    return net


def write_small_vit(path: Path) -> Path:
    """A bare file of weights that says what it is, as `dino train` leaves it."""
    about = {
        "architecture": architecture_to_json(ARCHITECTURE),
        "preprocessing": asdict(Preprocessing(resize=36, crop=32)),
        "attention_size": SIDE,
    }
    save_file(small_vit().state_dict(), path, metadata={"dino": json.dumps(about)})
    return path


def no_class_token(folder: Path) -> list:
    """Options for a ViT with registers but without a class token; patches of 16."""
    name = "test_vit3.r160_in1k"
    net = timm.create_model(name, pretrained=False, num_classes=0)
    save_file(net.state_dict(), folder / "nocls.safetensors")
    return ["--weights", folder / "nocls.safetensors", "--arch", name]


def disc(size=(70, 50), seed=0, at=(0.5, 0.5)):
    """Pixels of a bright disc on noise; size: width, height; at: its middle."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: size[1], : size[0]]
    inside = (y - size[1] * at[1]) ** 2 + (x - size[0] * at[0]) ** 2 < (min(size) / 3) ** 2
    pixels = np.where(inside[..., None], (230, 150, 40), (30, 60, 120))
    return (pixels + rng.normal(0, 20, (size[1], size[0], 3))).clip(0, 255).astype(np.uint8)


def photo(path: Path, size=(70, 50), seed=0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(disc(size, seed)).save(path)
    return path


def video(path: Path, frames=10, size=(70, 50), fps=10.0) -> Path:
    """A disc that moves to the right; MPEG-4 part 2, which any OpenCV writes."""
    code = cv2.VideoWriter.fourcc(*"mp4v")
    writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, code, fps, size)
    assert writer.isOpened()
    for i in range(frames):
        frame = disc(size, seed=i, at=(0.25 + 0.5 * i / frames, 0.5))
        writer.write(np.ascontiguousarray(frame[..., ::-1]))
    writer.release()
    return path


def network_input(path: Path) -> torch.Tensor:
    """A photo of 70 x 50 pixels as the network gets it, (1, 3, 48, 64)."""
    image = Image.open(path).convert("RGB").resize((SIDE * 70 // 50, SIDE), 2)
    x = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None, :, :48, :64] / 255
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (Preprocessing().mean, Preprocessing().std))
    return (x - mean) / std


def pixels(path: str | Path) -> np.ndarray:
    return np.asarray(Image.open(path))


def invoke(command: str, *arguments, code: int = 0):
    """Run `dino COMMAND …` on the CPU in full precision; checks the exit code."""
    line = [command, *map(str, arguments), "--device", "cpu", "--precision", "fp32", "-q"]
    result = CliRunner().invoke(app, line)
    assert result.exit_code == code, (result.output, result.exception)
    return result


def files_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def pictures_of(*names: str) -> set[str]:
    """The files of `dino attention` for the heads of these names."""
    return {f"{kind}_{name}.png" for name in names for kind in ("heat", "overlay", "mask")}

"""What to build: the description of a network, without the libraries that build it.

Imports no timm, so that a file can be described in a fraction of a second.
"""

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, get_args

__all__ = [
    "LAST_LAYER",
    "MOST_BLOCKS",
    "VIT_NAMES",
    "VIT_SIZES",
    "Architecture",
    "Positions",
    "TimmArchitecture",
    "VitArchitecture",
    "architecture_from_json",
    "architecture_to_json",
]

Positions = Literal["dino", "size", "timm"]

MOST, MOST_BLOCKS = 2**16, 1000  # of any size; of blocks
LAST_LAYER = -1  # blocks are numbered from 0, or from here backwards
PLAIN_NAME = re.compile(r"[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)*")
# Arguments of timm that open files or ask a network, and are never written.
OPENING = frozenset(
    {"cache_dir", "checkpoint_path", "pretrained", "pretrained_cfg", "pretrained_cfg_overlay"}
)

# name: width, depth, heads (paper, table 1; the reference's vit_tiny/small/base)
VIT_SIZES: dict[str, tuple[int, int, int]] = {
    "vit_tiny": (192, 12, 3),
    "vit_small": (384, 12, 6),
    "vit_base": (768, 12, 12),
}
VIT_NAMES = {size: name for name, size in VIT_SIZES.items()}


@dataclass(frozen=True, kw_only=True)
class VitArchitecture:
    """All that is needed to build an empty vision transformer.

    grid: rows and columns of the learned position embedding (training size / patch size).
    positions: how that grid is resampled for other sizes. `dino`: bicubic by scale factor with 0.1
        added, no antialias (DINO v1 under any naming); `size`: bicubic to the size, no
        antialias (DINOv2 without registers); `timm`: bicubic, antialiased.
    eps: of every LayerNorm. layer_scale: blocks end in a learned per-channel scale (DINOv2).
    registers: extra prefix tokens. embed_class: the position embedding has an entry for CLS.
    conv_stem: stride-2 convolutions instead of one patch projection.
    swiglu: gated MLPs, SiLU(a) * b (DINOv2's giant); `mlp_ratio` counts both halves.
    """

    width: int
    depth: int
    heads: int
    patch_size: int
    grid: tuple[int, int]
    in_chans: int = 3
    mlp_ratio: float = 4.0
    eps: float = 1e-6
    positions: Positions = "dino"
    layer_scale: bool = False
    registers: int = 0
    embed_class: bool = True
    conv_stem: bool = False
    swiglu: bool = False

    @property
    def size(self) -> tuple[int, int, int]:
        """Width, depth and heads, as in `VIT_SIZES`."""
        return self.width, self.depth, self.heads


@dataclass(frozen=True, kw_only=True)
class TimmArchitecture:
    """A model that timm builds by name, without its classifier."""

    name: str
    in_chans: int = 3
    arguments: Mapping[str, Any] = field(default_factory=dict)


Architecture = VitArchitecture | TimmArchitecture


def architecture_to_json(architecture: Architecture) -> dict[str, Any]:
    """For `config.json`; `architecture_from_json` reads it back."""
    kind = "vit" if isinstance(architecture, VitArchitecture) else "timm"
    return {"kind": kind, **asdict(architecture)}


def architecture_from_json(values: Mapping[str, Any]) -> Architecture:
    """Raises `KeyError`, `TypeError` or `ValueError` for what was never written by it.

    Such a description comes with a file, whoever made that: no size is believed that no network
    has, and no name that timm would follow elsewhere (`hf-hub:…`), nor an argument that opens a
    file.
    """
    rest = {key: value for key, value in values.items() if key != "kind"}
    if values["kind"] == "vit":
        rows, columns = rest["grid"]
        vit = VitArchitecture(**{**rest, "grid": (rows, columns)})
        _check_sizes(vit)
        return vit
    if values["kind"] == "timm":
        model = TimmArchitecture(**rest)
        plain = isinstance(model.name, str) and PLAIN_NAME.fullmatch(model.name)
        if not plain or not _is_count(model.in_chans, 1, MOST):
            raise ValueError(f"no model of timm: {model.name!r}")
        if OPENING & set(model.arguments) or not all(map(_is_plain, model.arguments.values())):
            raise ValueError(f"arguments that are never written: {model.arguments!r}")
        return model
    raise ValueError(f"unknown kind of architecture {values['kind']!r}")


def _check_sizes(a: VitArchitecture) -> None:
    counts = (a.width, a.depth, a.heads, a.patch_size, a.in_chans, *a.grid)
    flags = (a.layer_scale, a.embed_class, a.conv_stem, a.swiglu)
    good = (
        all(_is_count(count, 1, MOST) for count in counts)
        and a.depth <= MOST_BLOCKS
        and a.width % a.heads == 0
        and _is_count(a.registers, 0, MOST)
        and all(isinstance(flag, bool) for flag in flags)
        and all(isinstance(value, int | float) for value in (a.mlp_ratio, a.eps))
        and 0 < a.mlp_ratio <= 64
        and 0 < a.eps < 1
        and a.positions in get_args(Positions)
    )
    if not good:
        raise ValueError(f"no vision transformer: {a}")


def _is_count(value: object, least: int, most: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def _is_plain(value: object) -> bool:
    if isinstance(value, list | tuple):
        return len(value) <= MOST_BLOCKS and all(map(_is_plain, value))
    return value is None or isinstance(value, bool | int | float | str)

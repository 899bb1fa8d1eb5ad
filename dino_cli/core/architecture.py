"""What to build: the description of a network, without the libraries that build it.

Imports no timm, so that a file can be described in a fraction of a second.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

__all__ = [
    "VIT_SIZES",
    "Architecture",
    "Positions",
    "TimmArchitecture",
    "VitArchitecture",
    "architecture_from_json",
    "architecture_to_json",
]

Positions = Literal["dino", "size", "timm"]

# name: width, depth, heads (paper, table 1; the reference's vit_tiny/small/base)
VIT_SIZES: dict[str, tuple[int, int, int]] = {
    "vit_tiny": (192, 12, 3),
    "vit_small": (384, 12, 6),
    "vit_base": (768, 12, 12),
}


@dataclass(frozen=True, kw_only=True)
class VitArchitecture:
    """All that is needed to build an empty vision transformer.

    grid: rows and columns of the learned position embedding (training size / patch size).
    positions: how that grid is resampled for other sizes. `dino`: bicubic by scale factor with 0.1
        added, no antialias (SPEC of DINO v1 under any naming); `size`: bicubic to the size, no
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
    """Raises `KeyError`, `TypeError` or `ValueError` for what was never written by it."""
    rest = {key: value for key, value in values.items() if key != "kind"}
    if values["kind"] == "vit":
        rows, columns = rest["grid"]
        return VitArchitecture(**{**rest, "grid": (int(rows), int(columns))})
    if values["kind"] == "timm":
        return TimmArchitecture(**rest)
    raise ValueError(f"unknown kind of architecture {values['kind']!r}")

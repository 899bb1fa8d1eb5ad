"""Any other model of timm, by its name there: timm's own conversion, our strictness."""

import difflib
import math
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import timm
from torch import Tensor, nn

from dino_cli.core.network.architecture import (
    VIT_SIZES,
    Architecture,
    TimmArchitecture,
    VitArchitecture,
)
from dino_cli.errors import TaskError, UsageError
from dino_cli.store.weights.architectures import ArchitectureHints, is_own_arch, read_architecture
from dino_cli.store.weights.dinov3 import PERIODS
from dino_cli.store.weights.empty import empty_network
from dino_cli.store.weights.layouts import HEADS, bare_names, to_timm_names

__all__ = ["as_timm", "did_you_mean", "timm_config"]

SHOWN = 3  # names
FOREIGN = ("embeddings.", "embedder.", PERIODS)  # in the names that we read better than timm


def as_timm(
    name: str, tensors: Mapping[str, Tensor], known: ArchitectureHints
) -> tuple[Architecture, dict[str, Tensor]]:
    """The architecture that timm calls `name`, and the tensors under its names.

    Plain DINO and DINOv2 networks are read off the tensors instead, because their positions are
    resampled in another way than timm does. Raises `UsageError` for a name that timm does not have.
    """
    base = name.split(".")[0]
    if not timm.is_model(base):
        raise UsageError(f"timm has no architecture {base!r}", did_you_mean(base))
    foreign = any(key.startswith(FOREIGN) for key in bare_names(tensors))
    ours = name.endswith(".dino") or "_dinov2" in base
    if foreign or ours:
        named = to_timm_names(tensors)
        architecture = read_architecture(named, replace(known, arch=None))
        if ours:
            _expect_size(architecture, base)
        return architecture, named.tensors
    architecture, bare = _fitted(base, tensors, known)
    return architecture, _converted(base, bare, empty_network(architecture))


def did_you_mean(name: str) -> str:
    """The question for a name that neither we nor timm have: first those that begin with it, the
    shortest of them and of the usual patch size first."""
    names = [*VIT_SIZES, *timm.list_models()]
    longer = sorted(
        (known for known in names if known.startswith(name)),
        key=lambda known: (len(known), "patch16" not in known, known),
    )
    near = dict.fromkeys([*longer[:SHOWN], *difflib.get_close_matches(name, names, n=SHOWN)])
    return f"did you mean {', '.join(list(near)[:SHOWN])}?" if near else "see timm.list_models()"


def timm_config(arch: str | None) -> Mapping[str, Any] | None:
    """timm's `pretrained_cfg` of an architecture that is timm's alone, for its preprocessing."""
    if is_own_arch(arch) or _is_ours(str(arch)):
        return None
    config = timm.get_pretrained_cfg(str(arch))
    return config.to_dict() if config is not None and config.mean else None


def _is_ours(name: str) -> bool:
    """Plain DINO and DINOv2."""
    base = name.split(".")[0]
    return name.endswith(".dino") or ("_dinov2" in base and "giant" not in base)


def _expect_size(found: Architecture, base: str) -> None:
    net = empty_network(TimmArchitecture(name=base))
    wanted: Any = (net.embed_dim, len(net.blocks), net.patch_embed.patch_size[0])  # type: ignore[arg-type,union-attr,index]
    if isinstance(found, VitArchitecture):
        size = found.width, found.depth, found.patch_size
        if size != wanted:
            raise TaskError(
                f"its width, depth and patch size are {size}, but those of {base} {wanted}",
                "leave --arch out",
            )


def _fitted(
    base: str, tensors: Mapping[str, Tensor], known: ArchitectureHints
) -> tuple[TimmArchitecture, dict[str, Tensor]]:
    """With the arguments under which the model takes any image size and these tensors; and them,
    by the names in it."""
    arguments: dict[str, Any] = {"dynamic_img_size": True}
    if "dinov3" in base:  # timm's default there is the mean of the patches
        arguments["global_pool"] = "token"
    if known.patch_size is not None:
        arguments["patch_size"] = known.patch_size
    if known.heads is not None:
        arguments["num_heads"] = known.heads
    try:
        net = empty_network(TimmArchitecture(name=base, arguments=arguments))
    except TaskError:  # not a ViT: it has no such argument, and needs none
        del arguments["dynamic_img_size"]
        net = empty_network(TimmArchitecture(name=base, arguments=arguments))
    bare = bare_names(tensors, net.state_dict().keys())
    weight = f"{_config(net).get('first_conv')}.weight"
    first, ours = bare.get(weight), net.state_dict().get(weight)
    channels = 3
    if first is not None and ours is not None and first.ndim == ours.ndim == 4:
        # Of three channels a network may make more before that layer (TResNet).
        channels = first.shape[1] * 3 // ours.shape[1]
    positions, own = bare.get("pos_embed"), getattr(net, "pos_embed", None)
    if (
        isinstance(positions, Tensor)
        and isinstance(own, Tensor)
        and positions.ndim == own.ndim == 3
        and hasattr(getattr(net, "patch_embed", None), "grid_size")
    ):
        patch_size = net.patch_embed.patch_size[0]  # type: ignore[union-attr,index]
        prefix = own.shape[1] - math.prod(net.patch_embed.grid_size)  # type: ignore[union-attr,arg-type]
        side = math.isqrt(max(positions.shape[1] - prefix, 0))
        if side and side * side == positions.shape[1] - prefix and positions.shape != own.shape:
            arguments["img_size"] = side * patch_size  # or timm would resample the positions
    return TimmArchitecture(name=base, in_chans=channels, arguments=arguments), bare


def _converted(base: str, bare: Mapping[str, Tensor], net: nn.Module) -> dict[str, Tensor]:
    """Through the model family's own `checkpoint_filter_fn`, then without the classifier."""
    module = sys.modules[timm.model_entrypoint(base).__module__]
    convert: Callable[..., Any] | None = getattr(module, "checkpoint_filter_fn", None)
    wanted = net.state_dict()
    named: dict[str, Tensor] = dict(bare)
    if convert is not None and set(named) != set(wanted):
        try:
            named = dict(convert(named, net))
        except Exception as error:  # written for expected names only, fails in any way on others
            text = " ".join(str(error).split())[:100] or type(error).__name__
            raise TaskError(
                f"timm cannot convert its tensors to {base} ({text})", "change --arch"
            ) from None
    classifier = _config(net).get("classifier") or ()
    heads = (classifier,) if isinstance(classifier, str) else tuple(classifier)
    dropped = (*(f"{head}." for head in heads), *HEADS)
    return {k: t for k, t in named.items() if k in wanted or not k.startswith(dropped)}


def _config(net: nn.Module) -> Mapping[str, Any]:
    return getattr(net, "pretrained_cfg", None) or {}

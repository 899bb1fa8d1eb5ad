"""A run that starts from given weights: `dino train --init-from`."""

import math
import re
import shlex
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from timm.layers import resample_abs_pos_embed
from timm.models import adapt_input_conv
from torch import nn

from dino_cli.config.setting import arguments, flag_of, height_and_width
from dino_cli.config.train import TrainConfig
from dino_cli.core.network.architecture import (
    VIT_NAMES,
    Architecture,
    TimmArchitecture,
    VitArchitecture,
)
from dino_cli.core.network.backbone import build_empty
from dino_cli.core.network.vit import VisionTransformer
from dino_cli.errors import TaskError
from dino_cli.progress import Reporter
from dino_cli.store.weights.architectures import is_own_arch, name_for_arch
from dino_cli.store.weights.heads import read_head
from dino_cli.store.weights.load import Weights
from dino_cli.store.weights.load import load as load_weights

__all__ = ["head_from", "start_from"]

SUFFIXES = (".pth", ".pt", ".safetensors", ".bin")  # names of models have none of these


def start_from(
    config: TrainConfig, backbone: nn.Module, architecture: Architecture, reporter: Reporter
) -> None:
    """Copy given weights into a fresh backbone, the position grid resampled to this run's, the
    first convolution fitted to its channels."""
    assert config.init_from is not None
    given = _weights(config, config.init_from, reporter)
    tensors = dict(given.tensors)
    wanted = backbone.state_dict()
    if "norm.weight" in wanted and "norm.weight" not in tensors:
        # The last norm of networks that timm lets average the patches, of the mean then.
        tensors = {re.sub(r"^fc_norm\b", "norm", name): t for name, t in tensors.items()}
    _fit_positions(tensors, given.architecture, backbone)
    _fit_channels(tensors, wanted, reporter)
    wrong = [k for k in wanted.keys() | tensors.keys() if k not in wanted or k not in tensors]
    wrong += [k for k in wanted.keys() & tensors.keys() if wanted[k].shape != tensors[k].shape]
    both = [a for a in (given.architecture, architecture) if isinstance(a, VitArchitecture)]
    if len({a.heads for a in both}) > 1:
        wrong += ["number of heads"]  # which no shape shows
    if wrong:
        raise TaskError(
            f"--init-from {config.init_from} does not fit {config.arch} with patches of "
            f"{config.patch_size} px: {', '.join(sorted(wrong)[:3])}"
            + (f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""),
            _fitting(config, given.architecture),
        )
    backbone.load_state_dict(tensors)


def _fitting(config: TrainConfig, given: Architecture) -> str:
    """The way out: the options under which a network is as the given one."""
    if isinstance(given, TimmArchitecture) or given.layer_scale or given.registers:
        return _timms(config, given)
    named = VIT_NAMES.get(given.size)
    width, depth, heads = (None, None, None) if named else given.size
    wanted: dict[str, Any] = {
        "arch": named or "vit_tiny",
        "patch_size": given.patch_size,
        "width": width,
        "depth": depth,
        "heads": heads,
        "conv_stem": given.conv_stem,
        "in_chans": config.in_chans if given.in_chans == 3 else given.in_chans,
    }
    other = {name: value for name, value in wanted.items() if value != getattr(config, name)}
    return f"choose {_typed(config, other) or 'no --width, --depth and --heads'}"


def _timms(config: TrainConfig, given: Architecture) -> str:
    """The options under which the network is timm's, and views are of whole patches of it."""
    name = name_for_arch(given)
    if name is None:
        return "choose the timm model that they are of by --arch"
    patch: int | None = (
        given.arguments.get("patch_size")
        if isinstance(given, TimmArchitecture)
        else given.patch_size
    )
    wanted: dict[str, Any] = {"arch": name}
    for size in ("global_size", "local_size") if patch else ():
        sides = height_and_width(getattr(config, size))
        height, width = (max(1, round(side / patch)) * patch for side in sides)  # type: ignore[operator]
        wanted[size] = height if height == width else (height, width)
    only_ours = ("patch_size", "width", "depth", "heads", "conv_stem")
    given_too = [n for n in only_ours if getattr(config, n) != getattr(TrainConfig, n)]
    without = f", without {' and '.join(map(flag_of, given_too))}" if given_too else ""
    return f"choose {_typed(config, wanted)}{without}"


def _typed(config: TrainConfig, other: Mapping[str, Any]) -> str:
    """Options as they are typed."""
    return shlex.join(arguments(replace(config, **other), other))


def head_from(config: TrainConfig, head: nn.Module, reporter: Reporter) -> torch.Tensor | None:
    """Copy the projection head that lies beside those weights into a fresh one, and give its
    centre, (1, K).

    Where there is none, or another than this run's, the fresh one stays, which is said. Raises
    `TaskError` for one that is not finite.
    """
    assert config.init_from is not None
    given = read_head(Path(config.init_from))
    if given is None:
        reporter.remark(
            f"{config.init_from} holds no projection head, which starts anew; the original's full "
            "checkpoints and run folders hold one"
        )
        return None
    if given.not_finite:
        raise TaskError(
            f"cannot use --init-from {config.init_from}: its head is not finite "
            f"({given.not_finite[0]})",
            "give weights from before the training diverged",
        )
    wanted = head.state_dict()
    if {k: t.shape for k, t in given.tensors.items()} != {k: t.shape for k, t in wanted.items()}:
        other: dict[str, Any] = {
            k: value for k, value in given.options.items() if value != getattr(config, k)
        }
        fitting = f"; it would fit with {_typed(config, other)}" if other else ""
        reporter.remark(
            f"the projection head of {config.init_from} does not fit and starts anew{fitting}"
        )
        return None
    head.load_state_dict(dict(given.tensors))
    centre = given.centre
    if config.center_init == "batch" or (centre is not None and centre.numel() != config.out_dim):
        centre = None  # the first batch's mean instead, or a broken one
    what = "head goes" if centre is None else "head and the centre go"
    reporter.remark(f"the projection {what} on from {config.init_from} too")
    return centre


def _weights(config: TrainConfig, given: str, reporter: Reporter) -> Weights:
    """What stands at that path, else the model of that name."""
    path = Path(given)
    named = not path.exists()
    if named and (path.suffix in SUFFIXES or path.is_absolute() or given.startswith(".")):
        raise TaskError(f"there are no weights at {given!r}", "check --init-from")
    file = None if named else path
    try:
        return load_weights(model=given, weights=file, heads=config.heads, reporter=reporter)
    except TaskError as error:
        if file is not None and not is_own_arch(config.arch):  # a file of timm's tells nothing
            with suppress(TaskError):
                return load_weights(model=given, weights=file, arch=config.arch, reporter=reporter)
        what = f"nothing lies at {given!r}, and {error.what}" if named else error.what
        fix = re.sub("--(weights|model)", "--init-from", error.fix)  # their names elsewhere
        raise TaskError(what, fix) from None


def _fit_positions(tensors: dict[str, torch.Tensor], given: Architecture, net: nn.Module) -> None:
    """Resample learned positions to the grid of this run's network, by the rule of the given one:
    DINO's or DINOv2's, else timm's."""
    source = build_empty(given)
    here, there = _grid(net), _grid(source)
    positions = tensors.get("pos_embed")
    if positions is None or positions.ndim != 3 or here is None or there in (None, here):
        return
    if isinstance(source, VisionTransformer):
        source.pos_embed = nn.Parameter(positions, requires_grad=False)
        tensors["pos_embed"] = source.position_embedding(*here)
    else:
        prefix = positions.shape[1] - math.prod(there)
        tensors["pos_embed"] = resample_abs_pos_embed(
            positions, list(here), list(there), num_prefix_tokens=prefix
        )


def _grid(net: nn.Module) -> tuple[int, int] | None:
    """Rows and columns of learned positions, if there are any."""
    return getattr(getattr(net, "patch_embed", None), "grid_size", None)


def _fit_channels(
    tensors: dict[str, torch.Tensor], wanted: Mapping[str, torch.Tensor], reporter: Reporter
) -> None:
    """Colour weights for other channels, by timm's rule: summed for one; else repeated in turn and
    scaled by 3 / channels, so that activations keep their size."""
    for name, given in tensors.items():
        shape = wanted[name].shape if name in wanted else given.shape
        if given.ndim != 4 or given.shape[1] != 3 or shape[1] == 3:
            continue
        if (shape[0], *shape[2:]) != (given.shape[0], *given.shape[2:]):
            continue
        tensors[name] = adapt_input_conv(shape[1], given)
        how = "summed" if shape[1] == 1 else f"repeated and scaled by 3/{shape[1]}"
        reporter.remark(f"the weights for red, green and blue are {how} for --in-chans {shape[1]}")

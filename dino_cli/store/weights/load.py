"""Weights for a command: found, read without running anything, checked tensor by tensor.

`load` is the only loader. A path is read as it is; a name goes through `store.weights.hub`.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from dino_cli.config.setting import flag_of
from dino_cli.config.shared import Preprocessing
from dino_cli.config.values import counted
from dino_cli.core.network.architecture import (
    VIT_NAMES,
    Architecture,
    TimmArchitecture,
    VitArchitecture,
)
from dino_cli.errors import TaskError
from dino_cli.progress import Reporter
from dino_cli.store.weights.architectures import ArchitectureHints, is_own_arch, read_architecture
from dino_cli.store.weights.digests import check, sha256_of
from dino_cli.store.weights.empty import empty_network
from dino_cli.store.weights.folders import OwnRun, Source, open_source, weight_files
from dino_cli.store.weights.hub import locate
from dino_cli.store.weights.layouts import is_finite, network_of, own_backbone, to_timm_names
from dino_cli.store.weights.timm_models import as_timm, timm_config

__all__ = ["Weights", "load"]

ATTENTION_SIZE = 480  # short side in pixels for attention maps, as in the reference
SHOWN = 3  # tensors named in an error


@dataclass(frozen=True, kw_only=True, slots=True)
class Weights:
    """A backbone's weights and what is needed to use them.

    tensors: float32 on the CPU, under the names of the network that `core.network.backbone.build`
    makes of `architecture`, all of them. name: for people. source: the absolute path, or where the
    hub or the registry has them. sha256: of the file, hexadecimal. attention_size: short side in
    pixels for attention maps.
    """

    architecture: Architecture
    tensors: dict[str, Tensor]
    name: str
    source: str
    sha256: str
    preprocessing: Preprocessing
    attention_size: int


def load(
    *,
    model: str,
    weights: Path | None,
    checkpoint_key: str = "teacher",
    arch: str | None = None,
    patch_size: int | None = None,
    heads: int | None = None,
    offline: bool = False,
    reporter: Reporter | None = None,
) -> Weights:
    """Load local `weights`, or those of the named `model` when there are none.

    Nothing in a file is ever executed. Raises `TaskError` when there is no such model, no network,
    a damaged file, or a tensor that is missing, unexpected, misshapen or not finite; `UsageError`
    for an unknown `arch`.
    """
    known = ArchitectureHints(arch=arch, patch_size=patch_size, heads=heads)
    if weights is not None:
        source = open_source(weights, checkpoint_key)
        if source.timm_config is None and source.own is None and not source.preprocessor:
            source = replace(source, timm_config=timm_config(arch))
        return _read(source, known, checkpoint_key)
    found = locate(model, offline=offline, reporter=reporter or Reporter())
    # Checked before anything is read from it: a damaged file is then known for what it is.
    digests = {path: sha256_of(path) for path in weight_files(found.path)}
    for path, digest in digests.items():
        check(model, path, digest, found.sha256)
    source = open_source(found.path, checkpoint_key)
    if found.timm_config is not None:
        source = replace(source, timm_config=found.timm_config)
    known = replace(known, arch=arch or found.arch, patch_size=patch_size or found.patch_size)
    read = _read(source, known, checkpoint_key, digests)
    return replace(
        read,
        name=found.name,
        source=found.source,
        preprocessing=found.preprocessing or read.preprocessing,
        attention_size=found.attention_size or read.attention_size,
    )


def _read(
    source: Source,
    known: ArchitectureHints,
    checkpoint_key: str,
    digests: Mapping[Path, str] | None = None,
) -> Weights:
    try:
        tensors = network_of(source.content, checkpoint_key)
        source = replace(source, content={})  # nothing but `tensors` holds what was read
        architecture, named = _arrange(tensors, source, known)
        del tensors
        filled = _fitting(architecture, named, copy=not source.owned)
    except TaskError as error:
        raise TaskError(f"cannot use {str(source.path)!r}: {error.what}", error.fix) from None
    own = source.own
    return Weights(
        architecture=architecture,
        tensors=filled,
        name=_name(architecture),
        source=str(source.path.absolute()),
        sha256=source.sha256(digests),
        preprocessing=own.preprocessing if own else source.preprocessing(architecture),
        attention_size=own.attention_size if own else ATTENTION_SIZE,
    )


def _arrange(
    tensors: dict[str, Tensor], source: Source, known: ArchitectureHints
) -> tuple[Architecture, dict[str, Tensor]]:
    """The architecture, and the tensors under its names."""
    if source.own is not None:
        # Its names are already those of its own network.
        return _own(source.own, known), own_backbone(tensors)
    if not is_own_arch(known.arch):
        return as_timm(str(known.arch), tensors, replace(known, config=source.config))
    named = to_timm_names(tensors)
    return read_architecture(named, replace(known, config=source.config)), named.tensors


def _own(run: OwnRun, known: ArchitectureHints) -> Architecture:
    """What the run says, which the options may not contradict."""
    a = run.architecture
    facts = {"arch": None}
    if isinstance(a, VitArchitecture):
        facts |= {"patch_size": a.patch_size, "heads": a.heads}  # type: ignore[dict-item]
    for option in ("arch", "patch_size", "heads"):
        asked, flag = getattr(known, option), flag_of(option)
        if asked is not None and asked != facts.get(option):
            raise TaskError(
                f"it is of a `dino train` run that says what it is, and not {flag} {asked}",
                f"leave {flag} out",
            )
    return a


def _fitting(
    architecture: Architecture, tensors: dict[str, Tensor], *, copy: bool
) -> dict[str, Tensor]:
    """The tensors in float32, taken out of `tensors` one by one so that they are never held twice.

    copy: even where they are float32 already. Raises `TaskError` unless they fit the network
    exactly.
    """
    wanted = empty_network(architecture).state_dict()
    for name in wanted:  # files from before PyTorch 0.4 lack this counter, which nothing reads
        if name.endswith("num_batches_tracked"):
            tensors.setdefault(name, torch.zeros((), dtype=torch.int64))
    problems = [
        _listed("missing", [name for name in wanted if name not in tensors]),
        _listed("unexpected", [name for name in tensors if name not in wanted]),
        _listed(
            "misshapen",
            [
                f"{name} {_shape(tensors[name])} instead of {_shape(wanted[name])}"
                for name in wanted
                if name in tensors and tensors[name].shape != wanted[name].shape
            ],
        ),
    ]
    if any(problems):
        raise TaskError(
            f"its tensors do not fit {_name(architecture)}: " + "; ".join(filter(None, problems)),
            "give weights of one whole network, or change --arch or --checkpoint-key",
        )
    filled = {name: _float32(name, tensors.pop(name), wanted[name], copy=copy) for name in wanted}
    broken = [name for name, t in filled.items() if not is_finite(t)]
    if broken:
        raise TaskError(
            _listed("not finite", broken), "give weights from before the training diverged"
        )
    return filled


def _float32(name: str, given: Tensor, wanted: Tensor, *, copy: bool) -> Tensor:
    """Copied when mapped, so that the file may change or go away afterwards."""
    if given.is_floating_point() != wanted.is_floating_point():
        kind = str(given.dtype).removeprefix("torch.")
        raise TaskError(f"the tensor {name!r} is of type {kind}", "give floating-point weights")
    return given.detach().to("cpu", wanted.dtype, copy=copy).contiguous()


def _listed(what: str, names: list[str]) -> str:
    if not names:
        return ""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return f"{counted(len(names), 'tensor')} {what} ({', '.join(names[:SHOWN])}{more})"


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "scalar"


def _name(architecture: Architecture) -> str:
    if isinstance(architecture, TimmArchitecture):
        return re.sub(r"\..*", "", architecture.name)
    a = architecture
    name = VIT_NAMES.get(a.size, f"vit_{a.width}x{a.depth}")
    return f"{name}_patch{a.patch_size}"

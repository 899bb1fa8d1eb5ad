"""Networks without values, to learn names and shapes or to be filled without initialising first."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from dino_cli.core.network.architecture import Architecture
from dino_cli.core.network.backbone import build
from dino_cli.errors import TaskError

__all__ = ["empty_network", "filled_network"]


def empty_network(architecture: Architecture) -> nn.Module:
    """A network of the architecture whose tensors have no values, where timm can build such a one.

    Raises `TaskError` when the architecture is impossible.
    """
    try:
        with torch.device("meta"):
            return build(architecture)
    except Exception:  # some of timm's models compute with values while they are built
        return _built(architecture)


def filled_network(architecture: Architecture, tensors: Mapping[str, Tensor]) -> nn.Module:
    """A network that holds these very tensors (not copies); no initialisation is paid for.

    Raises `RuntimeError` when they do not fit, which `load` has excluded.
    """
    net = empty_network(architecture)
    net.load_state_dict(dict(tensors), assign=True)
    if any(t.is_meta for t in (*net.parameters(), *net.buffers())):
        # Values that are in no state dict (rotary frequencies) come from a true initialisation.
        net = _built(architecture)
        net.load_state_dict(dict(tensors), assign=True)
    return net.requires_grad_(False)


def _built(architecture: Architecture) -> nn.Module:
    try:
        return build(architecture)
    except (RuntimeError, ValueError, TypeError, AssertionError) as error:
        # torch appends its C++ stack; the first line says it.
        lines = str(error).strip().splitlines() or [type(error).__name__]
        text = " ".join(lines[0].split())[:200]
        raise TaskError(f"timm cannot build this architecture ({text})", "change --arch") from None

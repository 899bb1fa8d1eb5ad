"""Networks without values, to learn names and shapes or to be filled without initialising first."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from torch import Tensor, nn

from dino_cli.core.network.architecture import Architecture
from dino_cli.core.network.backbone import build, build_empty
from dino_cli.errors import TaskError

__all__ = ["empty_network", "filled_network"]


def empty_network(architecture: Architecture) -> nn.Module:
    """A network of the architecture whose tensors have no values, on the meta device.

    Raises `TaskError` when the architecture is impossible.
    """
    with _told():
        return build_empty(architecture)


def filled_network(architecture: Architecture, tensors: Mapping[str, Tensor]) -> nn.Module:
    """A network that holds these very tensors (not copies); no initialisation is paid for.

    Raises `RuntimeError` when they do not fit, which `load` has excluded.
    """
    net = empty_network(architecture)
    net.load_state_dict(dict(tensors), assign=True)
    if any(t.is_meta for t in (*net.parameters(), *net.buffers())):
        # Values that are in no state dict (rotary frequencies) come from a true initialisation.
        with _told():
            net = build(architecture)
        net.load_state_dict(dict(tensors), assign=True)
    return net.requires_grad_(False)


@contextmanager
def _told() -> Iterator[None]:
    try:
        yield
    except (RuntimeError, ValueError, TypeError, AssertionError) as error:
        # torch appends its C++ stack; the first line says it.
        lines = str(error).strip().splitlines() or [type(error).__name__]
        text = " ".join(lines[0].split())[:200]
        raise TaskError(f"timm cannot build this architecture ({text})", "change --arch") from None

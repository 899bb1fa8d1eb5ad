"""The blocks of a network in their order, and the network that ends with one of them."""

from copy import copy
from typing import Any

from timm.models.beit import Beit
from timm.models.xcit import Xcit
from torch import nn

from dino_cli.core.network import attention

__all__ = ["ending_with", "ordered_blocks"]


def ordered_blocks(net: nn.Module) -> list[nn.Module]:
    """Blocks through which tokens go one after the other; none of a network of another kind.

    XCiT's blocks of class attention are the last ones, as they are computed.
    """
    any_net: Any = net
    if isinstance(net, Xcit):
        return [*any_net.blocks, *(any_net.cls_attn_blocks or ())]
    return list(any_net.blocks) if isinstance(net, Beit) or attention.has_blocks(net) else []


def ending_with(net: nn.Module, number: int) -> nn.Module:
    """A network of these tensors without the blocks after one, of number 0 ≤ n < all of them.

    An XCiT that ends before its class attention has no class token: that enters there.
    """
    # Modules are held in a dictionary of their parent, which a copy would change for both.
    shorter: Any = copy(net)
    after, blocks = number + 1, shorter.blocks
    changed = {"blocks": blocks[:after]}
    if isinstance(net, Xcit):
        more = after - len(blocks)
        changed["cls_attn_blocks"] = shorter.cls_attn_blocks[:more] if more > 0 else None
        shorter.num_prefix_tokens = int(more > 0)
    shorter._modules = {**shorter._modules, **changed}
    whole: nn.Module = shorter
    return whole

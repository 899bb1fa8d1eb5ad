"""facebookresearch/dinov3's own names of its ViTs, as in `dinov3_vits16_pretrain_….pth`."""

import re
from collections.abc import Mapping

from torch import Tensor

from dino_cli.errors import TaskError

__all__ = ["PERIODS", "dinov3_names", "rope_temperature"]

PERIODS = "rope_embed.periods"
ROUNDED = 0.01  # of periods that a training in bf16 has saved
NAMES = (
    (r"^storage_tokens$", "reg_token"),
    (r"\.ls([12])\.gamma$", r".gamma_\1"),
    (r"\.mlp\.w1\.", ".mlp.fc1_g."),
    (r"\.mlp\.w2\.", ".mlp.fc1_x."),
    (r"\.mlp\.w3\.", ".mlp.fc2."),
)
# The periods tell the architecture, masks are folded into the biases, and the norm of local views
# is of training alone.
LEFT_OUT = re.compile(rf"^{re.escape(PERIODS)}$|\.bias_mask$|^local_cls_norm\.")


def dinov3_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors under the names of timm's Eva, whose keys have no bias.

    Raises `TaskError` for keys with one, which would give other features in silence.
    """
    named: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if name.endswith(".attn.qkv.bias") and tensor.ndim == 1 and len(tensor) % 3 == 0:
            block = name.removesuffix("qkv.bias")
            queries, keys, values = tensor.chunk(3)
            masked = block + "qkv.bias_mask" in tensors  # 0 for keys, 1 (or NaN at first) elsewhere
            if not masked and keys.any():
                raise TaskError(
                    f"the bias of its keys ({name!r}) is not 0, which no network here has",
                    "use weights with `mask_k_bias`, as the published ones",
                )
            named |= {block + "q_bias": queries, block + "v_bias": values}
        elif not LEFT_OUT.search(name):
            for pattern, replacement in NAMES:
                name = re.sub(pattern, replacement, name)
            named[name] = tensor
    return named


def rope_temperature(periods: Tensor) -> float:
    """The base of the rotary positions' periods, base^(i / n) for i < n.

    Raises `TaskError` when they are others (`pos_embed_rope_min_period`).
    """
    n = periods.numel()
    if periods.ndim == 1 and n > 1:
        found = periods.double()
        base = float(found[-1]) ** (n / (n - 1))
        base = 100.0 if abs(base / 100 - 1) < ROUNDED * 2 else base
        wanted = base ** (found.new_tensor(range(n)) / n)
        if bool((found / wanted - 1).abs().max() < ROUNDED):
            return base
    raise TaskError(
        "its rotary positions are not powers of one base, which timm's network has",
        "use weights that were trained with `pos_embed_rope_base`",
    )

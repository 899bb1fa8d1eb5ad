"""The names and shapes of a vision transformer's tensors, told without building it."""

import math

from dino_cli.core.network.architecture import VitArchitecture

__all__ = ["vit_shapes"]

Shape = tuple[int, ...]


def vit_shapes(a: VitArchitecture) -> dict[str, Shape]:
    """As `core.network.vit.build_vit(a).state_dict()` has them."""
    d, hidden = a.width, int(a.width * a.mlp_ratio)
    prefix = 1 + a.registers if a.embed_class else 0
    shapes: dict[str, Shape] = {
        "cls_token": (1, 1, d),
        "pos_embed": (1, prefix + a.grid[0] * a.grid[1], d),
        **({"reg_token": (1, a.registers, d)} if a.registers else {}),
        **_patches(a),
        "norm.weight": (d,),
        "norm.bias": (d,),
    }
    layers = {
        "norm1": (d,),
        "attn.qkv": (3 * d, d),
        "attn.proj": (d, d),
        "norm2": (d,),
        "mlp.fc1": (hidden, d),
        "mlp.fc2": (d, hidden // 2 if a.swiglu else hidden),
    }
    for block in range(a.depth):
        for layer, shape in layers.items():
            shapes[f"blocks.{block}.{layer}.weight"] = shape
            shapes[f"blocks.{block}.{layer}.bias"] = shape[:1]
        for scale in ("ls1", "ls2") if a.layer_scale else ():
            shapes[f"blocks.{block}.{scale}.gamma"] = (d,)
    return shapes


def _patches(a: VitArchitecture) -> dict[str, Shape]:
    if not a.conv_stem:
        shape = (a.width, a.in_chans, a.patch_size, a.patch_size)
        return {"patch_embed.proj.weight": shape, "patch_embed.proj.bias": (a.width,)}
    shapes: dict[str, Shape] = {}
    stages, channels = int(math.log2(a.patch_size)), a.in_chans
    for stage in range(stages):
        wider = max(8, a.width // 2 ** (stages - 1 - stage))
        shapes[f"patch_embed.proj.{3 * stage}.weight"] = (wider, channels, 3, 3)
        for name in ("weight", "bias", "running_mean", "running_var"):
            shapes[f"patch_embed.proj.{3 * stage + 1}.{name}"] = (wider,)
        shapes[f"patch_embed.proj.{3 * stage + 1}.num_batches_tracked"] = ()
        channels = wider
    shapes[f"patch_embed.proj.{3 * stages}.weight"] = (a.width, channels, 1, 1)
    shapes[f"patch_embed.proj.{3 * stages}.bias"] = (a.width,)
    return shapes

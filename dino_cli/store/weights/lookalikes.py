"""What a file of tensors is, when it is none of the networks that `dino` takes."""

import re
from collections.abc import Iterable

__all__ = ["looks_like"]

# The first that matches any name, the surest first.
SIGNS: tuple[tuple[str, str], ...] = (
    (
        r"^(module\.)?(head\.)?(mlp\.\d+|last_layer)\.(weight|bias|weight_[gv])$",
        "DINO's head alone",
    ),
    (r"^(text_model|vision_model|visual|transformer\.resblocks)\.", "a CLIP-like model"),
    (r"decoder_(blocks|embed|pred)\.", "a masked autoencoder (MAE)"),
    (r"relative_position_bias_table$", "a Swin transformer"),
    (
        r"(cls_attn_blocks|local_mp)\.",
        "an XCiT: name it with --arch, as --arch xcit_small_12_p16_224",
    ),
    (r"(downsample_layers|stages\.\d+\.blocks)\.", "a ConvNeXt: name it with --arch"),
    (r"^(model\.)?layers\.\d+\.(self_attn|mlp)\.|lm_head|wte", "a language model"),
    (r"^(unet|model\.diffusion_model|down_blocks)\b", "a diffusion model"),
    (r"layer\d\.\d+\.conv2\.", "a ResNet of basic blocks: name it with --arch"),
    (r"^(linear|fc|classifier)\.(weight|bias)$", "a classifier alone"),
    (r"^(exp_avg|momentum_buffer)", "the state of an optimizer"),
    (r"^features\.\d+\.", "a convnet of torchvision: name timm's with --arch"),
    (r"(encoder|decoder)\.", "an encoder-decoder of another kind"),
)


def looks_like(names: Iterable[str]) -> str | None:
    """The likeliest kind of network by its tensors' names; None for one we have no idea of."""
    known = list(names)
    for pattern, what in SIGNS:
        if any(re.search(pattern, name) for name in known):
            return what
    return None

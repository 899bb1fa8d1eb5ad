"""Student and teacher so small that a step takes milliseconds, and views for them."""

from dataclasses import replace

import torch

from dino_cli.core.network.architecture import VitArchitecture
from dino_cli.core.network.backbone import build
from dino_cli.core.training.head import DinoHead
from dino_cli.core.training.multicrop import MultiCrop
from dino_cli.core.training.optim import make_optimizer
from dino_cli.core.training.step import Networks, Views

TINY = VitArchitecture(width=16, depth=2, heads=2, patch_size=8, grid=(4, 4))


def networks(optimizer="adamw", *, drop_path=0.0, norm_last_layer=True, batch_norm=False):
    """batch_norm: in the head and before the first block."""
    torch.manual_seed(0)
    backbone = replace(TINY, conv_stem=batch_norm)
    student, teacher = (
        MultiCrop(
            build(backbone, drop_path=rate),
            DinoHead(
                16,
                24,
                hidden_dim=32,
                bottleneck_dim=8,
                use_bn=batch_norm,
                norm_last_layer=norm_last_layer,
            ),
        )
        for rate in (drop_path, 0.0)
    )
    teacher.load_state_dict(student.state_dict())
    teacher.requires_grad_(False)
    return Networks(
        student=student.train(),
        teacher=teacher.train(),
        optimizer=make_optimizer(optimizer, student),
        centre=torch.zeros(1, 24),
    )


def views(images=4, *, local=3, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return Views(
        groups=[
            torch.randn(2 * images, 3, 32, 32, generator=generator),
            torch.randn(local * images, 3, 16, 16, generator=generator),
        ]
    )


def state(n):
    both = {**n.student.state_dict(prefix="s."), **n.teacher.state_dict(prefix="t.")}
    return {k: v.clone() for k, v in {**both, "centre": n.centre}.items()}

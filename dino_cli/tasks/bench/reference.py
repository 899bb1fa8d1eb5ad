"""The original's way of each work, written plainly with torch, torchvision, timm and matplotlib.

From the paper (sections 3.1, 3.2, 4.1 and appendices) and the public interfaces of those libraries:
what `dino bench` compares with, and so part of the package, where an installed `dino bench` finds
it. Nothing here is used by any other command.
"""

import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
import torch.nn.functional as F
from PIL import Image, ImageFilter, ImageOps
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchvision import datasets, transforms
from torchvision.transforms import InterpolationMode

from dino_cli.config.shared import IMAGENET_MEAN, IMAGENET_STD
from dino_cli.runtime import forking, starting_workers

__all__ = [
    "Step",
    "attention_files",
    "backbone",
    "extract",
    "knn_classify",
    "pair_loss",
    "ten_views",
]

MOMENTUM = 0.996
TEACHER_TEMPERATURE, STUDENT_TEMPERATURE = 0.04, 0.1


def to_tensor() -> transforms.Compose:
    """Numbers from 0 to 1, normalised."""
    return transforms.Compose(
        [transforms.ToTensor(), transforms.Normalize(IMAGENET_MEAN, IMAGENET_STD)]
    )


def ten_views() -> Callable[[Image.Image], list[Tensor]]:
    """The views of one picture: two of 224 pixels, eight of 96 (section 3.2)."""

    def blur(chance: float) -> Callable[[Image.Image], Image.Image]:
        def apply(view: Image.Image) -> Image.Image:
            if random.random() > chance:
                return view
            return view.filter(ImageFilter.GaussianBlur(random.uniform(0.1, 2.0)))

        return apply

    def solarize(view: Image.Image) -> Image.Image:
        return ImageOps.solarize(view) if random.random() < 0.2 else view

    def view(
        size: int, scale: tuple[float, float], *last: Callable[[Image.Image], Image.Image]
    ) -> Callable[[Image.Image], Tensor]:
        jitter = transforms.ColorJitter(0.4, 0.4, 0.2, 0.1)
        return transforms.Compose(  # type: ignore[no-any-return]
            [
                transforms.RandomResizedCrop(size, scale, interpolation=InterpolationMode.BICUBIC),
                transforms.RandomHorizontalFlip(),
                transforms.RandomApply([jitter], 0.8),
                transforms.RandomGrayscale(0.2),
                *last,
                to_tensor(),
            ]
        )

    views = [view(224, (0.4, 1.0), blur(1.0)), view(224, (0.4, 1.0), blur(0.1), solarize)]
    views += [view(96, (0.05, 0.4), blur(0.5))] * 8
    return lambda picture: [one(picture) for one in views]


def backbone(arch: str, patch_size: int, *, drop_path: float = 0.0) -> nn.Module:
    """timm's vision transformer, of any input size."""
    net: nn.Module = timm.create_model(
        f"{arch}_patch16_224",
        num_classes=0,
        patch_size=patch_size,
        dynamic_img_size=True,
        drop_path_rate=drop_path,
    )
    return net


class _Network(nn.Module):
    """Backbone and head (section 3.1 "Network architecture", appendix C)."""

    def __init__(self, arch: str, patch_size: int, out_dim: int, drop_path: float) -> None:
        super().__init__()
        self.backbone = backbone(arch, patch_size, drop_path=drop_path)
        width = int(self.backbone.num_features)  # type: ignore[arg-type]
        self.mlp = nn.Sequential(
            nn.Linear(width, 2048),
            nn.GELU(),
            nn.Linear(2048, 2048),
            nn.GELU(),
            nn.Linear(2048, 256),
        )
        self.last = nn.utils.parametrizations.weight_norm(nn.Linear(256, out_dim, bias=False))
        lengths = self.last.parametrizations.weight.original0
        lengths.data.fill_(1)
        lengths.requires_grad = False

    def forward(self, views: Sequence[Tensor]) -> Tensor:
        """One forward of the backbone for each run of views of one size, one of the head."""
        features, first = [], 0
        sides = [view.shape[-1] for view in views]
        while first < len(views):
            last = first + sides[first:].count(sides[first])
            features.append(self.backbone(torch.cat(list(views[first:last]))))
            first = last
        logits: Tensor = self.last(F.normalize(self.mlp(torch.cat(features)), dim=-1))
        return logits


class Step:
    """Student, teacher, AdamW, and one step of algorithm 1, loop by loop."""

    def __init__(
        self, arch: str, patch_size: int, out_dim: int, device: torch.device, *, half: bool
    ) -> None:
        self.student = _Network(arch, patch_size, out_dim, 0.1).to(device)
        self.teacher = _Network(arch, patch_size, out_dim, 0.0).to(device).requires_grad_(False)
        self.teacher.load_state_dict(self.student.state_dict())
        decayed = [p for p in self.student.parameters() if p.requires_grad and p.ndim > 1]
        plain = [p for p in self.student.parameters() if p.requires_grad and p.ndim == 1]
        groups: list[dict[str, Any]] = [
            {"params": decayed},
            {"params": plain, "weight_decay": 0.0},
        ]
        self.optimizer = torch.optim.AdamW(groups, lr=1e-4, weight_decay=0.04)
        self.centre = torch.zeros(1, out_dim, device=device)
        self.scaler = torch.amp.GradScaler(device.type) if half else None
        self.device = device

    def __call__(self, views: Sequence[Tensor]) -> float:
        """views: each (B, 3, s, s), the two global ones first. Returns the loss, waited for."""
        with torch.autocast(self.device.type, torch.float16, enabled=self.scaler is not None):
            targets = self.teacher(views[:2])
            loss = self._loss(self.student(views), targets, len(views))
        value = loss.detach().item()
        self.optimizer.zero_grad()
        (self.scaler.scale(loss) if self.scaler else loss).backward()  # type: ignore[no-untyped-call]
        if self.scaler:
            self.scaler.unscale_(self.optimizer)
        for p in self.student.parameters():
            if p.grad is not None:
                scale = 3.0 / (p.grad.norm() + 1e-6)
                if scale < 1:
                    p.grad.mul_(scale)
        if self.scaler:
            self.scaler.step(self.optimizer)
            self.scaler.update()
        else:
            self.optimizer.step()
        with torch.no_grad():
            for new, old in zip(self.student.parameters(), self.teacher.parameters(), strict=True):
                old.mul_(MOMENTUM).add_((1 - MOMENTUM) * new)
        return value

    def _loss(self, student: Tensor, teacher: Tensor, views: int) -> Tensor:
        loss = pair_loss(student, teacher, self.centre, views)
        self.centre = self.centre * 0.9 + teacher.mean(dim=0, keepdim=True) * 0.1
        return loss


def pair_loss(student: Tensor, teacher: Tensor, centre: Tensor, views: int) -> Tensor:
    """Cross-entropy of each pair of different views, (V · B, K) and (2 · B, K), one by one."""
    targets = F.softmax((teacher - centre) / TEACHER_TEMPERATURE, dim=-1).detach().chunk(2)
    total, pairs = student.new_zeros(()), 0
    for i, target in enumerate(targets):
        for j, logits in enumerate((student / STUDENT_TEMPERATURE).chunk(views)):
            if i != j:
                total = total + (-target * F.log_softmax(logits, dim=-1)).sum(dim=-1).mean()
                pairs += 1
    return total / pairs


@torch.no_grad()
def extract(
    net: nn.Module, folder: Path, device: torch.device, *, batch_size: int, workers: int
) -> Tensor:
    """Features of a folder of classes, (N, D): torchvision's loader, the network in fp32."""
    transform = transforms.Compose(
        [
            transforms.Resize(256, interpolation=InterpolationMode.BICUBIC),
            transforms.CenterCrop(224),
            to_tensor(),
        ]
    )
    loader = DataLoader(
        datasets.ImageFolder(folder, transform),
        batch_size=batch_size,
        num_workers=workers,
        pin_memory=device.type == "cuda",
        multiprocessing_context=forking(workers),
    )
    with starting_workers():
        batches = iter(loader)
    features = [net(images.to(device, non_blocking=True)) for images, _ in batches]
    return torch.cat(features).cpu()


@torch.no_grad()
def knn_classify(
    train: Tensor, labels: Tensor, test: Tensor, classes: int, k: int, temperature: float = 0.07
) -> Tensor:
    """Classes of normalised test features (Q, D) in falling order of votes, (Q, C).

    The whole index at once, the queries in a hundred parts, votes through one-hot labels (appendix
    F.1).
    """
    found = []
    for queries in torch.split(test, max(1, len(test) // 100)):
        near, which = (queries @ train.T).topk(k, largest=True, sorted=True)
        one_hot = torch.zeros(len(queries) * k, classes, device=train.device)
        one_hot.scatter_(1, labels[which].view(-1, 1), 1)
        weights = (near / temperature).exp()
        votes = (one_hot.view(len(queries), k, classes) * weights[..., None]).sum(dim=1)
        found.append(votes.sort(dim=1, descending=True).indices)
    return torch.cat(found)


class _Kept(nn.Module):
    """A last block's attention that keeps its whole matrix, (B, H, T, T)."""

    def __init__(self, attention: nn.Module) -> None:
        super().__init__()
        self.inner = attention
        self.matrix = torch.empty(0)

    def forward(self, x: Tensor, **_: object) -> Tensor:
        inner: Any = self.inner
        b, tokens, width = x.shape
        heads = inner.num_heads
        qkv = inner.qkv(x).reshape(b, tokens, 3, heads, width // heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        self.matrix = (q @ k.mT * inner.scale).softmax(dim=-1)
        out: Tensor = inner.proj((self.matrix @ v).transpose(1, 2).reshape(b, tokens, width))
        return out


@torch.no_grad()
def attention_files(
    net: nn.Module, photo: Path, folder: Path, device: torch.device, *, size: int, patch_size: int
) -> None:
    """Heat map, mask and outlines of every head of one photo, as files, by matplotlib (fig. 3)."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot as plt
    from torchvision.utils import save_image

    with Image.open(photo) as opened:
        picture = opened.convert("RGB")
    x = transforms.Compose([transforms.Resize((size, size)), to_tensor()])(picture)
    block: Any = net.blocks[-1]  # type: ignore[index]
    kept = _Kept(block.attn)
    block.attn = kept
    try:
        net(x[None].to(device))
    finally:
        block.attn = kept.inner
    row = kept.matrix[0, :, 0, 1:]
    side = size // patch_size
    values, order = row.sort(dim=1)
    above = (values / values.sum(dim=1, keepdim=True)).cumsum(dim=1) > 0.4
    masks = torch.zeros_like(above).scatter(1, order, above).float()
    enlarged = {
        name: F.interpolate(maps.view(1, -1, side, side), scale_factor=patch_size, mode="nearest")[
            0
        ]
        for name, maps in (("attn", row), ("mask", masks))
    }
    folder.mkdir(parents=True, exist_ok=True)
    save_image(x, folder / "img.png", normalize=True, scale_each=True)
    shown = np.asarray(picture.resize((size, size)))
    for head in range(len(row)):
        plt.imsave(folder / f"attn-head{head}.png", enlarged["attn"][head].cpu().numpy())
        mask = enlarged["mask"][head].cpu().numpy()
        figure = plt.figure(figsize=(10, 10))
        axes = figure.add_axes((0, 0, 1, 1))
        axes.set_axis_off()
        axes.imshow(np.where(mask[..., None] > 0, shown // 2 + 64, shown).astype(np.uint8))
        axes.contour(mask, [0.5], colors="white")
        figure.savefig(folder / f"mask_th0.6_head{head}.png")
        plt.close(figure)

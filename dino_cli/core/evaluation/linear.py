"""Linear classifiers on frozen features (paper, section 4.1; the original's `eval_linear.py`).

Shapes: B images, D features, C classes, S classifiers that are trained side by side.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = [
    "MOMENTUM",
    "CorrectAnswers",
    "LinearClassifiers",
    "cosine_rate",
    "linear_features",
    "top_hits",
]

MOMENTUM = 0.9
SPREAD = 0.01  # standard deviation of the initial weights


def linear_features(blocks: Sequence[Tensor], prefix: int, *, avgpool: bool) -> Tensor:
    """What the linear layer sees: CLS of the last blocks, oldest first, side by side: (B, D).

    blocks: tokens of the last n blocks after the final norm, each (B, prefix + N, d). avgpool: the
    mean of the last block's patch tokens stands beside CLS, *interleaved* (cls0, avg0, cls1, …),
    as the released weights for ViT-B expect; takes a single block, else raises `ValueError`.
    """
    features = torch.cat([tokens[:, 0].float() for tokens in blocks], dim=-1)
    if not avgpool:
        return features
    if len(blocks) != 1:
        raise ValueError("average pooling goes with one block")
    mean = blocks[-1][:, prefix:].float().mean(dim=1)
    return torch.stack([features, mean], dim=-1).flatten(1)


def cosine_rate(rate: float, epoch: int, epochs: int) -> float:
    """The learning rate of an epoch: from `rate` down towards 0, one value for all its steps."""
    return rate * (1 + math.cos(math.pi * epoch / epochs)) / 2


@dataclass
class LinearClassifiers:
    """S linear layers with their SGD momenta, trained on the same features with their own rates.

    weight: (S, C, D), bias: (S, C). The gradient of the mean cross-entropy is written out, so that
    all of them cost two matrix products per step and no graph.
    """

    weight: Tensor
    bias: Tensor
    weight_velocity: Tensor
    bias_velocity: Tensor

    @classmethod
    def of(cls, weight: Tensor, bias: Tensor) -> "LinearClassifiers":
        """From given weights (S, C, D) and biases (S, C), with no velocity yet."""
        return cls(weight, bias, torch.zeros_like(weight), torch.zeros_like(bias))

    @classmethod
    def fresh(
        cls, count: int, classes: int, dim: int, *, seed: int, device: torch.device
    ) -> "LinearClassifiers":
        """Weights from N(0, .01), the same for all; biases 0."""
        generator = torch.Generator().manual_seed(seed)
        weight = torch.randn(classes, dim, generator=generator) * SPREAD
        weight = weight.to(device).expand(count, -1, -1).clone()
        return cls.of(weight, torch.zeros(count, classes, device=device))

    def logits(self, features: Tensor) -> Tensor:
        """float32 (B, D) → (S, B, C)."""
        return features @ self.weight.transpose(1, 2) + self.bias.unsqueeze(1)

    def step(self, features: Tensor, labels: Tensor, rates: Tensor) -> Tensor:
        """One SGD step of each classifier (momentum .9, no decay), in place.

        features: (B, D); labels: int64 (B,); rates: (S,). Returns the losses before it, (S,).
        """
        logs = F.log_softmax(self.logits(features), dim=-1)
        target = F.one_hot(labels, self.bias.shape[1]).to(logs.dtype)
        loss = -(logs * target).sum(dim=-1).mean(dim=1)
        error = (logs.exp() - target) / len(labels)
        self.weight_velocity.mul_(MOMENTUM).add_(error.transpose(1, 2) @ features)
        self.bias_velocity.mul_(MOMENTUM).add_(error.sum(dim=1))
        self.weight.sub_(rates[:, None, None] * self.weight_velocity)
        self.bias.sub_(rates[:, None] * self.bias_velocity)
        return loss


@dataclass(frozen=True)
class CorrectAnswers:
    """Per image whether the label is the best answer, and among the five best: bool (…, B)."""

    top1: Tensor
    top5: Tensor


def top_hits(logits: Tensor, labels: Tensor) -> CorrectAnswers:
    """logits: (…, B, C); labels: int64 (B,). Among equal logits the lower class comes first."""
    place = torch.arange(logits.shape[-1], device=logits.device)
    at = labels.reshape(-1, 1).expand(*logits.shape[:-1], 1)
    own = logits.gather(-1, at)
    before = (logits > own) | ((logits == own) & (place < at))
    rank = before.sum(dim=-1)
    return CorrectAnswers(rank < 1, rank < 5)

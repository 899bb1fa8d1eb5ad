"""The loss and its centre (paper, section 3.1, algorithm 1).

Shape letters: `B` images, `V` views, `K` prototypes. At K = 65,536 these tensors are the largest of
a step, so each exists once: the teacher's targets in fp32, the student's logits as they come, and
their gradient in the same type. All else is one view wide, and gone before the next.
"""

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

__all__ = ["centre_update", "dino_loss", "teacher_targets"]

STUDENT_TEMPERATURE = 0.1


@torch.no_grad()
def teacher_targets(teacher_logits: Tensor, centre: Tensor, temperature: float | Tensor) -> Tensor:
    """Centred and sharpened targets: softmax((t - c) / τ), float32, without gradient.

    teacher_logits: (2 · B, K), view-major. centre: (1, K), float32.
    """
    return F.softmax(torch.sub(teacher_logits, centre).div_(temperature), dim=-1)


def dino_loss(student_logits: Tensor, targets: Tensor, *, views: int) -> Tensor:
    """Mean cross-entropy over all pairs of a target view and another student view, float32 scalar.

    student_logits: (V · B, K), view-major; targets: (2 · B, K) from `teacher_targets`. The pair of
    a global view with itself is left out: 2 V - 2 pairs count (equation 3). The loss is linear in
    the targets, so each student view needs one log-sum-exp and one product with the sum of the
    targets it is paired with. The gradient is written by hand: softmax times the number of targets,
    less their sum.
    """
    loss: Tensor = _CrossEntropies.apply(student_logits, targets, views)
    return loss


class _CrossEntropies(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, student_logits: Tensor, targets: Tensor, views: int) -> Tensor:
        total = targets.new_zeros(())
        sums = []
        for logits, paired, count in _pairs(student_logits, targets, views):
            scaled = logits.to(torch.float32, copy=True).div_(STUDENT_TEMPERATURE)
            log_sum = scaled.logsumexp(dim=-1)
            total += (count * log_sum - scaled.mul_(paired).sum(dim=-1)).mean()
            sums.append(log_sum)
        ctx.save_for_backward(student_logits, targets, torch.stack(sums))
        return total / (2 * views - 2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        student_logits, targets, sums = ctx.saved_tensors
        views = len(sums)
        out = torch.empty_like(student_logits)
        scale = gradient / (STUDENT_TEMPERATURE * (2 * views - 2) * (len(targets) // 2))
        pairs = _pairs(student_logits, targets, views)
        for (logits, paired, count), log_sum, part in zip(
            pairs, sums, out.chunk(views), strict=True
        ):
            scaled = logits.to(torch.float32, copy=True).div_(STUDENT_TEMPERATURE)
            likely = scaled.sub_(log_sum[:, None]).exp_()
            part.copy_(likely.mul_(count).sub_(paired).mul_(scale))
        return out, None, None


def _pairs(
    student_logits: Tensor, targets: Tensor, views: int
) -> Iterator[tuple[Tensor, Tensor, int]]:
    """Of each view its logits (B, K), the sum of the targets it is paired with, their number."""
    first, second = targets.chunk(2)
    both = first + second if views > 2 else first
    for v, logits in enumerate(student_logits.chunk(views)):
        yield logits, (second, first, both)[min(v, 2)], 1 if v < 2 else 2


def centre_update(centre: Tensor, batch_mean: Tensor, momentum: float = 0.9) -> Tensor:
    """The next centre (equation 4): c ← m c + (1 - m) · mean of the teacher logits.

    batch_mean: float32 (1, K), over both global views, the whole batch and all ranks.
    """
    return centre * momentum + batch_mean * (1 - momentum)

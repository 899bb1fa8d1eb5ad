"""The loss and its centre (paper, section 3.1, algorithm 1)."""

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["centre_update", "dino_loss", "teacher_targets"]

STUDENT_TEMPERATURE = 0.1


def teacher_targets(teacher_logits: Tensor, centre: Tensor, temperature: float) -> Tensor:
    """Centred and sharpened targets: softmax((t - c) / τ), float32, without gradient.

    teacher_logits: (2 · B, K), view-major. centre: (1, K).
    """
    with torch.no_grad():
        return F.softmax((teacher_logits.float() - centre) / temperature, dim=-1)


def dino_loss(student_logits: Tensor, targets: Tensor, *, views: int) -> Tensor:
    """Mean cross-entropy over all pairs of a target view and another student view, float32 scalar.

    student_logits: (V · B, K), view-major; targets: (2 · B, K) from `teacher_targets`. The pair of
    a global view with itself is left out: 2 V - 2 pairs count (equation 3). The loss is linear in
    the targets, so each student view needs one log-sum-exp and one product with the sum of the
    targets it is paired with.
    """
    first, second = targets.chunk(2)
    total = student_logits.new_zeros((), dtype=torch.float32)
    for v, logits in enumerate(student_logits.float().div(STUDENT_TEMPERATURE).chunk(views)):
        paired = (second, first, first + second)[min(v, 2)]
        count = 1 if v < 2 else 2
        cross = count * logits.logsumexp(dim=-1) - (paired * logits).sum(dim=-1)
        total = total + cross.mean()
    return total / (2 * views - 2)


def centre_update(centre: Tensor, batch_mean: Tensor, momentum: float = 0.9) -> Tensor:
    """The next centre (equation 4): c ← m c + (1 - m) · mean of the teacher logits.

    batch_mean: (1, K), over both global views, the whole batch and all ranks.
    """
    return centre * momentum + batch_mean.float() * (1 - momentum)

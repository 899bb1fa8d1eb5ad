"""One training step: algorithm 1 of the paper, in the order in which it happens."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from dino_cli.core.training.health import Health, measure_health, update_ratio
from dino_cli.core.training.koleo import koleo_loss
from dino_cli.core.training.loss import centre_update, dino_loss, teacher_targets
from dino_cli.core.training.multicrop import MultiCrop
from dino_cli.core.training.optim import clip_per_tensor

__all__ = [
    "Networks",
    "Pass",
    "StepResult",
    "StepValues",
    "Views",
    "run_pass",
    "start_centre",
    "train_step",
]


@dataclass(frozen=True, kw_only=True)
class Views:
    """The views of one (micro-)batch of B images, normalised.

    groups: one tensor (V_i · B, C, H_i, W_i) per resolution, view-major; the first holds the two
        global views. masks: stochastic depth of the student, one (layers, V_i · B) per resolution,
        or none.
    """

    groups: Sequence[Tensor]
    masks: Sequence[Tensor] = ()

    @property
    def count(self) -> int:
        """Number of views V."""
        return sum(group.shape[0] for group in self.groups) // (self.groups[0].shape[0] // 2)


@dataclass(frozen=True, kw_only=True)
class StepValues:
    """What the schedules say at one step."""

    lr: float
    weight_decay: float
    momentum: float
    teacher_temperature: float
    freeze_last_layer: bool


@dataclass(kw_only=True)
class Networks:
    """What a step changes. `centre` is (1, K); `student` may be wrapped for several ranks.

    koleo_weight: of the regulariser on the student's features of the global views; 0 is the paper.
    """

    student: MultiCrop
    teacher: MultiCrop
    optimizer: torch.optim.Optimizer
    centre: Tensor
    centre_momentum: float = 0.9
    koleo_weight: float = 0.0


@dataclass(frozen=True, kw_only=True)
class StepResult:
    """0-dimensional tensors on the device; reading one waits for it.

    loss: mean over ranks and micro-batches. gradient_norm: global norm before clipping. skipped: 1
    when the loss or a gradient was not finite, and nothing was changed. overflowed: 1 when the loss
    was finite and only gradients were not, scaled for fp16: the student did not move. koleo: the
    regulariser before its weight, of this rank's last micro-batch, where there is one. Only where
    asked for: health, of this rank's last micro-batch, and update_ratio (see
    `core.training.health`).
    """

    loss: Tensor
    gradient_norm: Tensor
    skipped: Tensor
    overflowed: Tensor
    koleo: Tensor | None = None
    health: Health | None = None
    update_ratio: Tensor | None = None


@dataclass(frozen=True, kw_only=True)
class Pass:
    """What one (micro-)batch leaves behind, beside the student's gradients.

    loss: 0-dimensional, detached. teacher_mean: mean of the teacher's logits, float32 (1, K).
    targets (2 · B, K) and the teacher's features (2 · B, D): for the health figures. norms: of the
    gradients before clipping, where the pass has clipped them. koleo: as of `StepResult`.
    """

    loss: Tensor
    teacher_mean: Tensor
    targets: Tensor
    features: Tensor
    norms: Tensor | None = None
    koleo: Tensor | None = None


def _same(tensor: Tensor) -> Tensor:
    return tensor


def run_pass(
    networks: Networks,
    views: Views,
    temperature: float | Tensor,
    *,
    forward: Callable[..., tuple[Tensor, Tensor]],
    autocast: Callable[[], AbstractContextManager[Any]],
    scale: Callable[[Tensor], Tensor] = _same,
) -> Pass:
    """Teacher, student, loss and the student's gradients, which are added to those there are.

    temperature: the teacher's. forward: the student's, of groups, masks and `with_features`; scale:
    of the loss before backward.
    """
    # The teacher sees the two global views only, the student all of them.
    with autocast():
        with torch.no_grad():
            teacher_logits, features = networks.teacher(views.groups[:1], with_features=True)
        student_logits, student_features = forward(views.groups, views.masks, with_features=True)
    targets = teacher_targets(teacher_logits, networks.centre, temperature)
    loss = dino_loss(student_logits, targets, views=views.count)
    total, koleo = loss, None
    if networks.koleo_weight:
        koleo = koleo_loss(student_features[: len(targets)], views=2)
        total = loss + networks.koleo_weight * koleo
    scale(total).backward()  # type: ignore[no-untyped-call]
    return Pass(
        loss=loss.detach(),
        koleo=None if koleo is None else koleo.detach(),
        teacher_mean=teacher_logits.mean(dim=0, keepdim=True, dtype=torch.float32),
        targets=targets,
        features=features,
    )


def train_step(
    networks: Networks,
    micro_batches: Sequence[Views],
    at: StepValues,
    *,
    clip_grad: float,
    forward: Callable[..., Any] | None = None,
    autocast: Callable[[], AbstractContextManager[Any]] = nullcontext,
    no_sync: Callable[[], AbstractContextManager[Any]] = nullcontext,
    average: Callable[[Tensor], Tensor] = _same,
    scaler: Any = None,
    passes: Callable[..., Pass] = run_pass,
    measure: bool = False,
) -> StepResult:
    """Move student, centre and teacher once, over one batch given as micro-batches.

    forward: the student's forward where a wrapper averages gradients over ranks in backward.
    no_sync: suppresses that for all but the last micro-batch. average: mean of a tensor over ranks
    (one collective of K + 1 floats). scaler: a `GradScaler` for fp16. passes: how a micro-batch is
    computed; see `core.training.cuda_graph`. measure: also take the health figures, which cost a
    copy of the parameters. No host synchronisation without them.
    """
    student, teacher, optimizer = networks.student, networks.teacher, networks.optimizer
    forward = forward or student
    n = len(micro_batches)

    # Learning rate and weight decay follow their schedules; only the first group is decayed.
    for group in optimizer.param_groups:
        group["lr"] = at.lr
    optimizer.param_groups[0]["weight_decay"] = at.weight_decay
    optimizer.zero_grad(set_to_none=True)

    # The forward passes write what they see into batch norm's running statistics.
    statistics = _batch_norm_statistics(student, teacher)
    kept = [_joined(tensors) for tensors in statistics]

    batch_mean, mean_loss = torch.zeros_like(networks.centre), networks.centre.new_zeros(1, 1)
    for i, views in enumerate(micro_batches):
        with no_sync() if i < n - 1 else nullcontext():
            passed = passes(
                networks,
                views,
                at.teacher_temperature,
                forward=forward,
                autocast=autocast,
                scale=lambda loss: scaler.scale(loss / n) if scaler else loss / n,
            )
        batch_mean += passed.teacher_mean / n
        mean_loss += passed.loss / n

    # One collective: the mean of the teacher's logits for the centre, and the loss beside it.
    averaged = average(torch.cat([batch_mean, mean_loss], dim=1))
    batch_mean, mean_loss = averaged[:, :-1], averaged[0, -1]

    # Clip each tensor by itself, then withhold the last layer's gradient: while it is frozen it is
    # not decayed and its optimizer state does not age.
    if scaler:
        scaler.unscale_(optimizer)
    norms = passed.norms
    if norms is None:
        norms = clip_per_tensor(student.parameters(), clip_grad)
    if at.freeze_last_layer:
        for p in student.head.last_layer.parameters():
            p.grad = None

    trained = [p for p in student.parameters() if p.requires_grad]
    before: list[Tensor] = [p.detach().clone() for p in trained] if measure else []

    # A loss or gradient that is not finite changes nothing: a flag on the device, not a branch.
    bad = ~mean_loss.isfinite()
    infinite = ~norms.isfinite().all()
    if scaler:
        scaler.step(optimizer)  # it skips by itself what overflowed in fp16, a normal event
        scaler.update()
    else:
        bad = bad | infinite
        optimizer.found_inf = bad.float()  # type: ignore[attr-defined]
        optimizer.step()

    with torch.no_grad():
        moved = centre_update(networks.centre, batch_mean, networks.centre_momentum)
        networks.centre.copy_(torch.where(bad, networks.centre, moved))
        update_teacher(teacher, student, torch.where(bad, 0.0, 1 - at.momentum))
        for tensors, old in zip(statistics, kept, strict=True):
            _put_back(tensors, torch.where(bad, old, _joined(tensors)))

    return StepResult(
        loss=mean_loss,
        gradient_norm=norms.norm(),
        skipped=bad.float(),
        overflowed=(infinite & ~bad).float(),
        koleo=passed.koleo,
        health=measure_health(passed.targets, passed.features, networks.centre)
        if measure
        else None,
        update_ratio=update_ratio(before, [p.detach() for p in trained]) if measure else None,
    )


@torch.no_grad()
def start_centre(
    networks: Networks,
    micro_batches: Sequence[Views],
    *,
    autocast: Callable[[], AbstractContextManager[Any]] = nullcontext,
    average: Callable[[Tensor], Tensor] = _same,
) -> None:
    """Let the centre begin at the mean of the teacher's logits over the first batch.

    Arguments as of `train_step`, whose forward passes then move batch norm's running statistics;
    here they stay. So does the centre where that mean is not finite.
    """
    statistics = _batch_norm_statistics(networks.teacher)
    kept = [_joined(tensors) for tensors in statistics]
    mean = torch.zeros_like(networks.centre)
    for views in micro_batches:
        with autocast():
            logits = networks.teacher(views.groups[:1])
        mean += logits.mean(dim=0, keepdim=True, dtype=torch.float32) / len(micro_batches)
    for tensors, old in zip(statistics, kept, strict=True):
        _put_back(tensors, old)
    mean = average(mean)
    networks.centre.copy_(torch.where(mean.isfinite().all(), mean, networks.centre))


def _batch_norm_statistics(*networks: nn.Module) -> list[list[Tensor]]:
    """Buffers of all batch norms, those of one data type together."""
    by_type: dict[torch.dtype, list[Tensor]] = {}
    for network in networks:
        for layer in network.modules():
            if isinstance(layer, _BatchNorm):
                for buffer in layer.buffers(recurse=False):
                    by_type.setdefault(buffer.dtype, []).append(buffer)
    return list(by_type.values())


def _joined(tensors: Sequence[Tensor]) -> Tensor:
    """A copy of all their elements in a row: one kernel, where there may be hundreds of tensors."""
    return torch.cat([tensor.flatten() for tensor in tensors])


def _put_back(tensors: Sequence[Tensor], joined: Tensor) -> None:
    pieces = torch.split(joined, [tensor.numel() for tensor in tensors])
    torch._foreach_copy_(
        list(tensors), [piece.view_as(t) for piece, t in zip(pieces, tensors, strict=True)]
    )


@torch.no_grad()
def update_teacher(teacher: nn.Module, student: nn.Module, weight: Tensor) -> None:
    """θt ← θt + weight · (θs - θt) over all parameters, frozen ones too; buffers stay its own.

    weight: 0-dimensional, 1 - momentum (paper, section 3.1 "Teacher network").
    """
    old: list[Tensor] = list(teacher.parameters())
    new: list[Tensor] = list(student.parameters())
    if weight.device.type == "cpu":  # one pass over memory instead of three
        for t, s in zip(old, new, strict=True):
            t.lerp_(s, weight)
        return
    difference = list(torch._foreach_sub(new, old))
    torch._foreach_mul_(difference, weight)
    torch._foreach_add_(old, difference)

"""The loss against every pair written out, its gradient, and the memory that both take."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from dino_cli.core.training.loss import dino_loss, teacher_targets
from dino_cli.tasks.bench.memory import peak_memory

TEMPERATURE = 0.04


def by_pairs(student: Tensor, teacher: Tensor, centre: Tensor, views: int) -> Tensor:
    """Softmax and log-softmax of every pair by itself, as the original does."""
    targets = F.softmax((teacher - centre) / TEMPERATURE, dim=-1).chunk(2)
    terms = [
        (-target * F.log_softmax(logits, dim=-1)).sum(dim=-1).mean()
        for i, target in enumerate(targets)
        for j, logits in enumerate((student / 0.1).chunk(views))
        if i != j
    ]
    return sum(terms, start=torch.zeros(())) / len(terms)


def logits(views: int, b: int, k: int) -> tuple[Tensor, Tensor, Tensor]:
    """Cosines to prototypes, as the head gives them, and a centre."""
    g = torch.Generator().manual_seed(views)
    student, teacher = (torch.rand(n * b, k, generator=g) * 2 - 1 for n in (views, 2))
    return student, teacher, torch.randn(1, k, generator=g) / 10


@pytest.mark.parametrize("views", [2, 3, 10])
def test_loss_and_gradient_are_those_of_all_pairs(views: int) -> None:
    student, teacher, centre = logits(views, 3, 40)
    ours, theirs = (student.clone().requires_grad_() for _ in range(2))
    loss = dino_loss(ours, teacher_targets(teacher, centre, TEMPERATURE), views=views)
    expected = by_pairs(theirs, teacher, centre, views)
    (3 * loss).backward()
    (3 * expected).backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-5, atol=1e-8)


def test_logits_in_half_precision_are_reckoned_in_full() -> None:
    student, teacher, centre = (x.bfloat16() for x in logits(4, 2, 300))
    ours, theirs = student.clone().requires_grad_(), student.float().requires_grad_()
    loss = dino_loss(ours, teacher_targets(teacher, centre.float(), TEMPERATURE), views=4)
    expected = by_pairs(theirs, teacher.float(), centre.float(), 4)
    loss.backward()
    expected.backward()
    assert loss.dtype == torch.float32
    assert ours.grad is not None
    assert ours.grad.dtype == torch.bfloat16
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    torch.testing.assert_close(ours.grad, theirs.grad.bfloat16(), rtol=1e-2, atol=1e-7)


def test_nothing_given_is_changed() -> None:
    given = logits(10, 2, 50)
    kept = [x.clone() for x in given]
    student = given[0].requires_grad_()
    dino_loss(student, teacher_targets(*given[1:], TEMPERATURE), views=10).backward()
    for before, after in zip(kept, given, strict=True):
        assert torch.equal(before, after.detach())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_memory_at_65536_prototypes(dtype: torch.dtype) -> None:
    """The gradient, two targets, and four tensors of one view; all pairs take three times that."""
    views, b, k = 10, 2, 65536
    student, teacher, centre = logits(views, b, k)
    student, teacher = student.to(dtype), teacher.to(dtype)

    def peak(loss: Callable[[Tensor], Tensor]) -> float:
        def work() -> Tensor | None:
            x = student.detach().requires_grad_()
            loss(x).backward()
            return x.grad

        return peak_memory(work, torch.device("cpu")) / (4 * b * k)  # in views of fp32

    ours = peak(lambda x: dino_loss(x, teacher_targets(teacher, centre, TEMPERATURE), views=views))
    theirs = peak(lambda x: by_pairs(x, teacher, centre, views))
    gradient = views * dtype.itemsize / 4
    assert gradient + 2 < ours < gradient + 2 + 4
    assert theirs > 3 * ours


def test_peak_memory_counts_what_lives_at_once() -> None:
    def work() -> Tensor:
        first = torch.ones(1 << 18)  # 1 MiB
        second = first + 1
        del first
        return second * second  # with `second`, never three

    peak = peak_memory(work, torch.device("cpu"))
    assert 2 * 2**20 <= peak < 2.1 * 2**20

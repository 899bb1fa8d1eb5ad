"""A pass recorded as a CUDA graph: one launch in place of more than a thousand.

Recorded once and replayed, the same kernels run in the same order, on whatever lies in the inputs'
memory, and Python does not hold the GPU up between them.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from dino_cli.core.training.optim import clip_per_tensor
from dino_cli.core.training.step import Networks, Pass, Views, run_pass

__all__ = ["GraphedPasses", "RecordingError"]

WARM_UPS = 3  # passes before recording, so that libraries choose their kernels outside of it

Autocast = Callable[[], AbstractContextManager[Any]]


class RecordingError(RuntimeError):
    """What the network does cannot be recorded: it waits for the device, or takes from the host."""


class GraphedPasses:
    """Stands in for `core.training.step.run_pass` where a step is one pass, without a loss scale.

    The first views of each resolution are recorded, which takes a few passes and changes nothing;
    from then on passes are replayed. Gradients are clipped within. What a pass returns is
    overwritten by the next.
    """

    def __init__(self, clip_grad: float) -> None:
        self.clip_grad = clip_grad
        self._recording: _Recording | None = None

    def __call__(
        self,
        networks: Networks,
        views: Views,
        temperature: float,
        *,
        forward: Callable[..., tuple[Tensor, Tensor]],
        autocast: Autocast,
        scale: object = None,
    ) -> Pass:
        """As `run_pass`. Raises `torch.OutOfMemoryError` when recording needs too much memory, and
        `RecordingError`, after which the device is of no more use to this process."""
        if self._recording is None or not self._recording.fits(views):
            self._recording = None  # views that have grown do not shrink again
            with torch.cuda.device(networks.centre.device):  # whose streams they are
                self._recording = _record(networks, views, forward, autocast, self.clip_grad)
        return self._recording.replay(views, temperature)


@dataclass(frozen=True, kw_only=True)
class _Recording:
    graph: torch.cuda.CUDAGraph
    views: Views  # what it reads
    temperature: Tensor
    result: Pass  # what it writes
    gradients: list[tuple[torch.nn.Parameter, Tensor | None]]

    def fits(self, views: Views) -> bool:
        """Whether views have the shapes of the recorded ones."""
        return [t.shape for t in _inputs(views)] == [t.shape for t in _inputs(self.views)]

    def replay(self, views: Views, temperature: float) -> Pass:
        torch._foreach_copy_(_inputs(self.views), _inputs(views))
        self.temperature.fill_(temperature)
        self.graph.replay()
        for parameter, gradient in self.gradients:
            parameter.grad = gradient
        return self.result


def _inputs(views: Views) -> list[Tensor]:
    return [*views.groups, *views.masks]


def _record(
    networks: Networks,
    views: Views,
    forward: Callable[..., tuple[Tensor, Tensor]],
    autocast: Autocast,
    clip_grad: float,
) -> _Recording:
    student = networks.student
    own = Views(groups=[g.clone() for g in views.groups], masks=[m.clone() for m in views.masks])
    temperature = torch.ones((), device=networks.centre.device)
    buffers = [*student.buffers(), *networks.teacher.buffers()]  # of batch norm: warm-ups move them
    before = [buffer.clone() for buffer in buffers]

    def work() -> Pass:
        student.zero_grad(set_to_none=True)  # so that gradients are written, not added
        passed = run_pass(networks, own, temperature, forward=forward, autocast=autocast)
        return replace(passed, norms=clip_per_tensor(student.parameters(), clip_grad))

    side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(WARM_UPS):
            work()
    torch.cuda.current_stream().wait_stream(side)
    for buffer, value in zip(buffers, before, strict=True):
        buffer.copy_(value)
    graph = torch.cuda.CUDAGraph()
    try:
        # Other threads pin memory for the next batches meanwhile, which is no part of it.
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            result = work()
    except RuntimeError as error:
        # Ending what has failed fails too, and says less.
        first = error.__context__ or error
        if isinstance(first, torch.OutOfMemoryError):
            raise first from None
        raise RecordingError(str(first).strip().split("\n", 1)[0]) from error
    gradients = [(p, p.grad) for p in student.parameters() if p.requires_grad]
    return _Recording(
        graph=graph, views=own, temperature=temperature, result=result, gradients=gradients
    )

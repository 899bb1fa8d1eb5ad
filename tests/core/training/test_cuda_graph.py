"""Passes that are recorded and replayed, against passes that are computed each time.

Without a GPU a recorder stands in for CUDA's graphs: it notes every operation on tensors, and
replaying does the same ones again, on the same memory.
"""

from contextlib import contextmanager, nullcontext

import pytest
import torch
from cuda_graph_recorder import Recorder
from small_networks import networks, state, views

from dino_cli.core.training import cuda_graph as graphed
from dino_cli.core.training.cuda_graph import GraphedPasses, RecordingError
from dino_cli.core.training.droppath import draw_masks
from dino_cli.core.training.step import StepValues, Views, train_step


@pytest.fixture
def recorder(monkeypatch):
    """CUDA's part, without CUDA. Real graphs do not compute while they record; this one does."""

    @contextmanager
    def record(graph, **_):
        with graph:
            yield

    class Stream:
        def wait_stream(self, other):
            pass

    monkeypatch.setattr(graphed.torch.cuda, "device", lambda _: nullcontext())
    monkeypatch.setattr(graphed.torch.cuda, "Stream", Stream)
    monkeypatch.setattr(graphed.torch.cuda, "current_stream", Stream)
    monkeypatch.setattr(graphed.torch.cuda, "stream", lambda _: nullcontext())
    monkeypatch.setattr(graphed.torch.cuda, "CUDAGraph", Recorder)
    monkeypatch.setattr(graphed.torch.cuda, "graph", record)


def values(step):
    """Each step at another point of the schedules; the last layer is free from the third on."""
    return StepValues(
        lr=0.05 / (1 + step),
        weight_decay=0.1 + 0.01 * step,
        momentum=0.9 + 0.01 * step,
        teacher_temperature=0.05 + 0.01 * step,
        freeze_last_layer=step < 2,
    )


def batch(step, rates, images=4):
    plain = views(images, seed=step)
    masks = [
        draw_masks(rates, key=(0, step, i), views=group.shape[0] // images, images=images,
                   share=slice(0, images))
        for i, group in enumerate(plain.groups)
    ]  # fmt: skip
    return Views(groups=plain.groups, masks=masks)


def run(passes, *, drop_path, device="cpu", steps=6):
    n = networks(drop_path=drop_path)
    for network in (n.student, n.teacher):
        network.to(device)
    n.centre = n.centre.to(device)
    rates = [layer.rate for layer in n.student.drop_paths]
    told = []
    for step in range(steps):
        # In the last steps there are more images, as when views grow: another recording.
        plain = batch(step, rates if drop_path else [], images=4 if step < steps - 2 else 6)
        moved = Views(
            groups=[group.to(device) for group in plain.groups],
            masks=[mask.to(device) for mask in plain.masks] if drop_path else [],
        )
        more = {"passes": passes} if passes else {}
        result = train_step(n, [moved], values(step), clip_grad=0.5, measure=True, **more)
        told.append((result.loss.item(), result.gradient_norm.item(), result.health.spread.item()))
    return told, state(n)


@pytest.mark.parametrize("drop_path", [0.0, 0.5])
def test_replaying_changes_no_float(recorder, drop_path):
    plain, before = run(None, drop_path=drop_path)
    recorded, after = run(GraphedPasses(clip_grad=0.5), drop_path=drop_path)
    assert recorded == plain
    assert all(torch.equal(before[key], after[key]) for key in before)


def test_a_replayed_pass_that_is_not_finite_leaves_batch_norm_as_it_was(recorder):
    n, passes = networks(batch_norm=True), GraphedPasses(clip_grad=0.5)
    train_step(n, [views()], values(0), clip_grad=0.5, passes=passes)
    before = state(n)
    bad = views(seed=2)
    bad.groups[0][0, 0, 0, 0] = float("nan")
    assert train_step(n, [bad], values(1), clip_grad=0.5, passes=passes).skipped.item() == 1
    assert all(torch.equal(before[key], value) for key, value in state(n).items())


def test_warming_up_does_not_move_batch_norm(recorder):
    """Its statistics are those of the passes that count. This recorder computes one more."""
    n, passes = networks(batch_norm=True), GraphedPasses(clip_grad=0.5)
    for step in range(3):
        train_step(n, [views()], values(step), clip_grad=0.5, passes=passes)
    counts = {name: int(value) for name, value in state(n).items() if "tracked" in name}
    assert {name[:2] for name in counts} == {"s.", "t."}
    assert set(counts.values()) == {3 + 1, 2 * (3 + 1)}  # two resolutions of the student's


def test_the_recorder_would_notice_inputs_that_are_not_copied(recorder, monkeypatch):
    """Replayed on the views of the first step, the second differs."""
    plain, _ = run(None, drop_path=0.0)
    monkeypatch.setattr(graphed.torch, "_foreach_copy_", lambda *_: None)
    recorded, _ = run(GraphedPasses(clip_grad=0.5), drop_path=0.0)
    assert recorded[0] == plain[0]
    assert recorded[1] != plain[1]


def test_what_waits_for_the_device_is_not_recorded(recorder):
    n, passes = networks(), GraphedPasses(clip_grad=0.5)
    n.student.head.register_forward_hook(lambda *given: given[-1].sum().item() and None)
    with pytest.raises(RecordingError, match="_local_scalar_dense"):
        train_step(n, [views()], values(0), clip_grad=0.5, passes=passes)


@pytest.mark.parametrize("second", [None, RuntimeError("it ended with what it began")])
def test_memory_that_lacks_for_a_recording_is_told_as_such(recorder, monkeypatch, second):
    """Though CUDA may then have another error for the end of the recording."""

    @contextmanager
    def record(graph, **_):
        try:
            yield
            raise torch.OutOfMemoryError("CUDA out of memory")
        finally:
            if second is not None:
                raise second

    monkeypatch.setattr(graphed.torch.cuda, "graph", record)
    with pytest.raises(torch.OutOfMemoryError):
        train_step(networks(), [views()], values(0), clip_grad=0.5, passes=GraphedPasses(0.5))


@pytest.mark.gpu
@pytest.mark.parametrize("drop_path", [0.0, 0.5])
def test_cuda_graphs_replay_the_same(drop_path):
    plain, before = run(None, drop_path=drop_path, device="cuda")
    recorded, after = run(GraphedPasses(clip_grad=0.5), drop_path=drop_path, device="cuda")
    for a, b in zip(plain, recorded, strict=True):
        assert b == pytest.approx(a, rel=1e-4)
    for key in before:
        torch.testing.assert_close(after[key], before[key], rtol=1e-4, atol=1e-6)

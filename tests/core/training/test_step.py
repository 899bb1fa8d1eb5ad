"""The step against slow oracles, and what must not change a run."""

import copy
from contextlib import contextmanager
from functools import partial

import pytest
import torch
from small_networks import networks, state, views
from torch import nn

from dino_cli.core.training.health import measure_health
from dino_cli.core.training.koleo import koleo_loss
from dino_cli.core.training.loss import dino_loss, teacher_targets
from dino_cli.core.training.optim import (
    Lars,
    clip_per_tensor,
    load_optimizer,
    make_optimizer,
    parameter_groups,
)
from dino_cli.core.training.schedule import cosine_schedule, teacher_temperatures
from dino_cli.core.training.step import StepValues, Views, start_centre, train_step

AT = StepValues(
    lr=0.1, weight_decay=0.1, momentum=0.9, teacher_temperature=0.05, freeze_last_layer=False
)


@pytest.mark.parametrize("count", [2, 3, 6])
def test_loss_is_the_mean_over_pairs_of_different_views(count):
    torch.manual_seed(0)
    student, teacher = torch.randn(count * 4, 9), torch.randn(2 * 4, 9)
    centre = torch.randn(1, 9)
    pairs = []
    for q in range(2):
        target = ((teacher.chunk(2)[q] - centre) / 0.05).softmax(-1)
        for v in range(count):
            if v != q:
                log = (student.chunk(count)[v] / 0.1).log_softmax(-1)
                pairs.append(-(target * log).sum(-1).mean())
    targets = teacher_targets(teacher, centre, 0.05)
    ours = dino_loss(student, targets, views=count)
    assert ours.item() == pytest.approx(torch.stack(pairs).mean().item(), rel=1e-5)


def test_accumulated_micro_batches_equal_the_whole_batch():
    """SGD shows the gradient itself; the centre and the teacher move once."""
    whole, split = networks("sgd"), networks("sgd")
    batch = views(8)
    halves = [
        Views(groups=[group.unflatten(0, (-1, 8))[:, part].flatten(0, 1) for group in batch.groups])
        for part in (slice(0, 4), slice(4, 8))
    ]
    one = train_step(whole, [batch], AT, clip_grad=3.0)
    two = train_step(split, halves, AT, clip_grad=3.0)
    assert one.loss.item() == pytest.approx(two.loss.item(), rel=1e-5)
    for name, tensor in state(whole).items():
        torch.testing.assert_close(state(split)[name], tensor, rtol=1e-4, atol=1e-6, msg=name)


@pytest.mark.parametrize("weight", [0.0, 0.3])
def test_a_step_goes_down_the_gradient_of_the_loss_and_the_weighted_koleo(weight):
    """KoLeo's over the student's two global views; told beside the loss, not in it. And towards
    zero, what is decayed."""
    n, batch = networks("sgd"), views()
    n.koleo_weight = weight
    trained = [p for p in n.student.parameters() if p.requires_grad]
    decayed = {id(p) for p in parameter_groups(n.student)[0]["params"]}
    before = [p.detach().clone() for p in trained]
    logits, features = n.student(batch.groups, with_features=True)
    targets = teacher_targets(n.teacher(batch.groups[:1]), n.centre, AT.teacher_temperature)
    loss, koleo = dino_loss(logits, targets, views=5), koleo_loss(features[: 2 * 4], views=2)
    gradients = torch.autograd.grad(loss + weight * koleo, trained)
    result = train_step(n, [batch], AT, clip_grad=0.0)
    for old, new, gradient in zip(before, trained, gradients, strict=True):
        way = gradient + (AT.weight_decay * old if id(new) in decayed else 0.0)
        torch.testing.assert_close(new.detach(), old - AT.lr * way, rtol=1e-4, atol=1e-7)
    assert result.loss.item() == pytest.approx(loss.item())
    if weight:
        assert result.koleo.item() == pytest.approx(koleo.item())
    length = sum(gradient.double().square().sum().item() for gradient in gradients) ** 0.5
    assert result.gradient_norm.item() == pytest.approx(length, rel=1e-4)


def test_a_scaled_loss_moves_all_as_far_as_one_that_is_not():
    """As for fp16: gradients are as they were before they are clipped. Powers of two round none."""
    plain, scaled = networks("sgd"), networks("sgd")
    batches = [views(), views(seed=2)]
    one = train_step(plain, batches, AT, clip_grad=0.01)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**12)
    two = train_step(scaled, batches, AT, clip_grad=0.01, scaler=scaler)
    torch.testing.assert_close(two.gradient_norm, one.gradient_norm)
    assert one.gradient_norm > 0.05  # of all tensors: some were clipped
    for name, tensor in state(plain).items():
        torch.testing.assert_close(state(scaled)[name], tensor, msg=name)


def test_the_mean_for_the_centre_is_taken_in_full_of_logits_in_half_precision():
    n, seen = networks(), []
    n.teacher.register_forward_hook(lambda *given: seen.append(given[-1][0]))
    half = partial(torch.autocast, "cpu", torch.bfloat16)
    train_step(n, [views()], AT, clip_grad=3.0, autocast=half)
    assert seen[0].dtype == torch.bfloat16
    wanted = 0.1 * seen[0].double().mean(dim=0, keepdim=True)
    torch.testing.assert_close(n.centre.double(), wanted, rtol=1e-5, atol=1e-7)


def test_ranks_send_gradients_once_and_the_mean_of_the_logits_with_the_loss():
    n, alone, sent, held = networks(), networks(), [], []

    @contextmanager
    def no_sync():
        held.append(True)
        yield
        held[-1] = False

    def forward(*given, **options):
        sent.append(not (held and held[-1]))
        return n.student(*given, **options)

    def average(tensor):  # of this rank, and of one that has seen twice as much
        sent.append(tuple(tensor.shape))
        return 1.5 * tensor

    start_centre(n, [views(), views(seed=2)], average=average)
    start_centre(alone, [views(), views(seed=2)])
    torch.testing.assert_close(n.centre, 1.5 * alone.centre)
    batches, before = [views(), views(seed=2), views(seed=3)], n.centre.clone()
    logits = torch.cat([n.teacher(batch.groups[:1]) for batch in batches]).detach()
    result = train_step(
        n, batches, AT, clip_grad=3.0, forward=forward, no_sync=no_sync, average=average
    )
    assert sent == [(1, 24), False, False, True, (1, 25)]
    torch.testing.assert_close(n.centre, 0.9 * before + 0.15 * logits.mean(dim=0, keepdim=True))
    alone.centre = before
    loss = train_step(alone, batches, AT, clip_grad=3.0).loss
    torch.testing.assert_close(result.loss, 1.5 * loss)


def test_the_figures_of_a_step_are_of_what_it_saw_and_moved():
    n, batch = networks(), views()
    trained = [p for p in n.student.parameters() if p.requires_grad]
    before = torch.cat([p.detach().flatten() for p in trained])
    logits, features = n.teacher(batch.groups[:1], with_features=True)
    targets = teacher_targets(logits, n.centre, AT.teacher_temperature)
    result = train_step(n, [batch], AT, clip_grad=3.0, measure=True)
    expected = measure_health(targets, features, n.centre)  # the centre as it is now
    for name, figure in vars(expected).items():
        torch.testing.assert_close(getattr(result.health, name), figure, msg=name)
    moved = (torch.cat([p.detach().flatten() for p in trained]) - before).norm()
    assert moved > 0
    torch.testing.assert_close(result.update_ratio, moved / before.norm())


def test_the_centre_begins_at_the_mean_of_the_first_batch_and_moves_nothing_else():
    n, m = networks(batch_norm=True), networks(batch_norm=True)
    before, first, second = state(n), views(), views(seed=2)
    start_centre(n, [first, second])
    means = [m.teacher(batch.groups[:1]).mean(dim=0, keepdim=True) for batch in (first, second)]
    torch.testing.assert_close(n.centre, (means[0] + means[1]) / 2)
    begun = n.centre.clone()
    second.groups[0][0, 0, 0, 0] = float("nan")
    start_centre(n, [first, second])
    assert torch.equal(n.centre, begun)
    for name, tensor in state(n).items():
        assert name == "centre" or torch.equal(tensor, before[name]), name


@pytest.mark.parametrize("optimizer", ["adamw", "sgd", "lars"])
@pytest.mark.parametrize("fault", ["nan input", "infinite gradient"])
def test_a_step_that_is_not_finite_changes_nothing(optimizer, fault):
    n, clean = networks(optimizer), networks(optimizer)
    before = state(n)
    batch = views()
    handle = None
    if fault == "nan input":
        batch.groups[1][0, 0, 0, 0] = float("nan")
    else:
        first = n.student.backbone.patch_embed.proj.bias
        handle = first.register_hook(lambda gradient: gradient * float("inf"))
    result = train_step(n, [batch], AT, clip_grad=0.0)
    assert result.skipped.item() == 1
    for name, tensor in state(n).items():
        assert torch.equal(tensor, before[name]), name
    if handle:
        handle.remove()
    # And the next good step is the one that a run without the accident would have made.
    for each in (n, clean):
        assert train_step(each, [views(seed=2)], AT, clip_grad=3.0).skipped.item() == 0
    for name, tensor in state(clean).items():
        torch.testing.assert_close(state(n)[name], tensor, msg=name)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_step_that_is_not_finite_leaves_batch_norm_as_it_was(accumulate):
    """Its running statistics would be NaN for ever, and so would what is computed by them."""
    n = networks(batch_norm=True)
    train_step(n, [views()] * accumulate, AT, clip_grad=3.0)
    before = state(n)
    batch = views(seed=2)
    batch.groups[0][0, 0, 0, 0] = float("nan")
    batches = [batch, views(seed=3)][:accumulate]
    assert train_step(n, batches, AT, clip_grad=3.0).skipped.item() == 1
    for name, tensor in state(n).items():
        assert torch.equal(tensor, before[name]), name
    # A good step moves them.
    train_step(n, [views()] * accumulate, AT, clip_grad=3.0)
    after = state(n)
    moved = [name for name in before if "running" in name or "tracked" in name]
    assert moved
    assert not any(torch.equal(after[name], before[name]) for name in moved)


def test_gradients_that_overflow_in_fp16_are_told_from_a_loss_that_is_not_finite():
    n = networks()
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127)
    before = copy.deepcopy(n.student.state_dict())
    result = train_step(n, [views()], AT, clip_grad=3.0, scaler=scaler)
    assert (result.skipped.item(), result.overflowed.item()) == (0, 1)
    assert all(torch.equal(before[k], v) for k, v in n.student.state_dict().items())
    batch = views()
    batch.groups[0][0, 0, 0, 0] = float("nan")
    result = train_step(n, [batch], AT, clip_grad=3.0, scaler=scaler)
    assert (result.skipped.item(), result.overflowed.item()) == (1, 0)
    usual = torch.amp.GradScaler("cpu")
    result = train_step(n, [views()], AT, clip_grad=3.0, scaler=usual)
    assert (result.skipped.item(), result.overflowed.item()) == (0, 0)


def test_a_frozen_last_layer_neither_moves_nor_decays_nor_ages():
    n = networks()
    frozen = StepValues(**{**vars(AT), "freeze_last_layer": True})
    v = n.student.head.last_layer.weight_v
    before = v.detach().clone()
    train_step(n, [views()], frozen, clip_grad=3.0)
    assert torch.equal(v, before)
    assert v not in n.optimizer.state
    train_step(n, [views()], AT, clip_grad=3.0)
    assert not torch.equal(v, before)
    assert n.optimizer.state[v]["step"].item() == 1


@pytest.mark.parametrize("optimizer", ["adamw", "sgd", "lars"])
def test_moments_of_a_checkpoint_are_laid_out_as_weights_with_channels_last(optimizer):
    """As convnets' are on CUDA, where the kernels refuse others; a CPU's would mix them up."""

    def begun():
        n = networks(optimizer, batch_norm=True)
        n.student.to(memory_format=torch.channels_last)
        n.optimizer = make_optimizer(optimizer, n.student)
        for seed in range(2):
            train_step(n, [views(seed=seed)], AT, clip_grad=3.0)
        return n

    whole, resumed = begun(), begun()
    kept = resumed.optimizer.state_dict()
    kept["state"] = {
        i: {name: value.contiguous() for name, value in moments.items()}
        for i, moments in kept["state"].items()
    }
    load_optimizer(resumed.optimizer, kept)
    for n in (whole, resumed):
        train_step(n, [views(seed=2)], AT, clip_grad=3.0)
    assert all(torch.equal(state(whole)[name], value) for name, value in state(resumed).items())


def test_teacher_follows_all_parameters_but_no_buffers():
    n = networks()
    n.student.register_buffer("statistic", torch.ones(1))
    n.teacher.register_buffer("statistic", torch.zeros(1))
    old = copy.deepcopy(n.teacher)
    train_step(n, [views()], AT, clip_grad=3.0)
    for before, after, student in zip(
        old.parameters(), n.teacher.parameters(), n.student.parameters(), strict=True
    ):
        torch.testing.assert_close(after, 0.9 * before + 0.1 * student)
    assert n.teacher.statistic.item() == 0


def test_groups_decay_matrices_positions_and_prototypes_only():
    n = networks(norm_last_layer=False)
    names = {id(p): name for name, p in n.student.named_parameters()}
    decayed, plain = ({names[id(p)] for p in g["params"]} for g in parameter_groups(n.student))
    assert {"backbone.pos_embed", "backbone.cls_token", "head.last_layer.weight_v"} <= decayed
    assert "head.last_layer.weight_g" in decayed  # (K, 1), trained here
    assert all(name.endswith("bias") or ".norm" in name for name in plain)
    assert parameter_groups(n.student)[1]["weight_decay"] == 0
    frozen = parameter_groups(networks().student)
    assert all(p.requires_grad for group in frozen for p in group["params"])


def test_lars_takes_plain_steps_where_a_length_is_zero():
    """A share of no length would stay where it is for ever, one of no gradient be no number."""
    weights, without = nn.Parameter(torch.zeros(2, 3)), nn.Parameter(torch.ones(2, 3))
    weights.grad, without.grad = torch.ones(2, 3), torch.zeros(2, 3)
    Lars([weights, without], lr=0.1).step()
    assert weights.tolist() == [[pytest.approx(-0.1)] * 3] * 2
    assert without.tolist() == [[1.0] * 3] * 2


def test_clipping_is_per_tensor():
    a, b = nn.Parameter(torch.zeros(4)), nn.Parameter(torch.zeros(4))
    a.grad, b.grad = torch.full((4,), 10.0), torch.full((4,), 0.1)
    norms = clip_per_tensor([a, b], 3.0)
    assert norms.tolist() == pytest.approx([20.0, 0.2])
    assert a.grad.norm().item() == pytest.approx(3.0, rel=1e-5)
    assert b.grad.tolist() == pytest.approx([0.1] * 4)
    # As the original's, which adds 1e-6 to the length that it divides by.
    a.grad = torch.full((4,), 1e-5)
    clip_per_tensor([a], 1e-5)
    assert a.grad.tolist() == pytest.approx([1e-5 * 1e-5 / (2e-5 + 1e-6)] * 4, rel=1e-4)


def test_schedules_have_their_ends():
    lr = cosine_schedule(1.0, 0.1, 20, warmup_steps=5)
    assert lr[:5].tolist() == [0, 0.25, 0.5, 0.75, 1.0]
    assert lr[5] == 1.0
    assert 0.1 < lr[-1] < 0.12
    assert teacher_temperatures(0.04, 0.07, 5, warmup_epochs=3).tolist() == pytest.approx(
        [0.04, 0.055, 0.07, 0.07, 0.07]
    )
    # A run may be nothing but warm-up.
    assert cosine_schedule(1.0, 0.1, 3, warmup_steps=3).tolist() == [0, 0.5, 1.0]
    assert teacher_temperatures(0.04, 0.07, 2, warmup_epochs=2).tolist() == [0.04, 0.07]
    with pytest.raises(ValueError, match="do not fit"):
        cosine_schedule(1.0, 0.1, 4, warmup_steps=5)
    with pytest.raises(ValueError, match="do not fit"):
        teacher_temperatures(0.04, 0.07, 2, warmup_epochs=3)

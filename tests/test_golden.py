"""Ours against the numbers that the original implementation computed. Sizes come from the files."""

import pytest
import torch
import torch.nn.functional as F
from golden_files import golden_backbone, golden_folder

from dino_cli.core.masks.threshold import threshold_mass
from dino_cli.core.network.architecture import VitArchitecture
from dino_cli.core.network.backbone import build
from dino_cli.core.training.head import DinoHead
from dino_cli.core.training.loss import centre_update, dino_loss, teacher_targets
from dino_cli.core.training.multicrop import MultiCrop
from dino_cli.core.training.optim import make_optimizer
from dino_cli.core.training.schedule import cosine_schedule, teacher_temperatures
from dino_cli.core.training.step import Networks, StepValues, Views, train_step
from dino_cli.runtime import choose_precision

pytestmark = pytest.mark.golden

FEATURES, ATTENTION, RELATIVE = 1e-5, 1e-6, 1e-4


def _sizes() -> list[str]:
    from safetensors import safe_open

    with safe_open(golden_folder() / "forward.safetensors", "pt") as file:
        return sorted({key.split(".")[0] for key in file.keys()})  # noqa: SIM118


def _trajectories() -> list[str]:
    return sorted(path.stem.removeprefix("train_") for path in golden_folder().glob("train_*.json"))


@pytest.fixture(scope="module")
def backbone(golden):
    return golden_backbone(golden.tensors("vit"), golden.json("train_adamw")["config"]["num_heads"])


def _image(files, size):
    h, w = map(int, size.split("x"))
    small = files[f"{size}.input_small"]
    return F.interpolate(small, size=(h, w), mode="bilinear", align_corners=False)


@pytest.mark.parametrize("size", _sizes())
def test_features_and_attention(golden, backbone, size):
    files = golden.tensors("forward")
    image = _image(files, size)
    assert (backbone.features(image) - files[f"{size}.cls"]).abs().max() < FEATURES
    attention = backbone.cls_attention(image)[0]
    assert (attention - files[f"{size}.cls_attention"]).abs().max() < ATTENTION


@pytest.mark.parametrize("size", _sizes())
def test_last_four_blocks(golden, backbone, size):
    files = golden.tensors("forward")
    if f"{size}.cls_last4" not in files:
        pytest.skip("the original's file has no last blocks at this size")
    outputs = backbone.last_tokens(_image(files, size), 4)
    ours = torch.stack([tokens[:, 0] for tokens in outputs])
    assert (ours - files[f"{size}.cls_last4"]).abs().max() < FEATURES
    assert (outputs[-1][:, 1:] - files[f"{size}.patch_tokens"]).abs().max() < FEATURES


def test_forward_notices_one_scaled_tensor(golden, backbone):
    """The tolerance is tight enough to see any weight tensor of the network off by a thousandth."""
    files = golden.tensors("forward")
    size = _sizes()[0]
    image = _image(files, size)
    unseen = []
    for name, parameter in backbone.net.named_parameters():
        kept = parameter.data.clone()
        parameter.data.mul_(1.001)
        if (backbone.features(image) - files[f"{size}.cls"]).abs().max() < FEATURES:
            unseen.append(name)
        parameter.data.copy_(kept)
    # A bias of the keys shifts all logits alike and cannot show; the whole qkv bias can.
    assert unseen == []


@pytest.mark.parametrize("share", [0.1, 0.6, 0.9])
def test_masks(golden, share):
    files = golden.tensors("masks")
    ours = threshold_mass(files["attention"], share)
    assert torch.equal(ours, files[f"mask_{share}"].bool())


def test_loss_gradient_and_centre(golden):
    files = golden.tensors("loss")
    epochs = len({key.split(".")[0] for key in files})
    temperatures = teacher_temperatures(0.04, 0.07, epochs, warmup_epochs=3)
    centre = torch.zeros(1, files["0.student"].shape[1])
    for epoch in range(epochs):
        student = files[f"{epoch}.student"].clone().requires_grad_()
        teacher = files[f"{epoch}.teacher"]
        views = 2 * len(student) // len(teacher)
        targets = teacher_targets(teacher, centre, temperatures[epoch])
        loss = dino_loss(student, targets, views=views)
        loss.backward()
        centre = centre_update(centre, teacher.mean(dim=0, keepdim=True))
        assert loss.item() == pytest.approx(files[f"{epoch}.loss"].item(), rel=1e-6)
        gradient = files[f"{epoch}.grad"]
        assert (student.grad - gradient).abs().max() < 1e-5 * gradient.abs().max()
        assert torch.allclose(centre, files[f"{epoch}.center_after"], rtol=0, atol=1e-7)


def test_schedules(golden):
    files = golden.json("schedules")
    steps = len(files["lr"])
    lr = cosine_schedule(0.0005 * 192 / 256, 1e-6, steps, warmup_steps=steps * 2 // 5)
    assert lr.tolist() == pytest.approx(files["lr"], rel=1e-12, abs=1e-18)
    assert cosine_schedule(0.04, 0.4, steps).tolist() == pytest.approx(files["wd"], rel=1e-12)
    momentum = cosine_schedule(0.996, 1.0, steps)
    assert momentum.tolist() == pytest.approx(files["momentum"], rel=1e-12)


def _networks(config, init, device):
    """Student, teacher and optimizer as the golden training started."""
    grid = 224 // config["patch_size"]
    architecture = VitArchitecture(
        width=config["embed_dim"],
        depth=config["depth"],
        heads=config["num_heads"],
        patch_size=config["patch_size"],
        grid=(grid, grid),
    )

    def network():
        head = DinoHead(
            config["embed_dim"],
            config["out_dim"],
            hidden_dim=config["head_hidden_dim"],
            bottleneck_dim=config["head_bottleneck_dim"],
            use_bn=config["use_bn_in_head"],
            norm_last_layer=config["norm_last_layer"],
        )
        net = MultiCrop(build(architecture), head)
        net.load_state_dict(init)
        return net.to(device)

    student, teacher = network(), network()
    teacher.requires_grad_(False)
    return Networks(
        student=student,
        teacher=teacher,
        optimizer=make_optimizer(config["optimizer"], student),
        centre=torch.zeros(1, config["out_dim"], device=device),
    )


def _norm(model):
    return sum(p.double().square().sum() for p in model.parameters()).sqrt().item()


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
@pytest.mark.parametrize("name", _trajectories())
def test_training(golden, name, device):
    """Every step's loss and norms, and each parameter's norm at the end: an undecayed pos_embed, a
    global clip or a late centre would show."""
    files = golden.json(f"train_{name}")
    config = files["config"]
    choose_precision("fp32", torch.device(device))
    networks = _networks(config, golden.tensors(f"train_{name}.init"), device)
    epochs, per_epoch = config["epochs"], config["iters_per_epoch"]
    steps = epochs * per_epoch
    warmup = config["warmup_epochs"] * per_epoch
    lr = cosine_schedule(config["lr"], config["min_lr"], steps, warmup_steps=warmup)
    decay = cosine_schedule(config["weight_decay"], config["weight_decay_end"], steps)
    momentum = cosine_schedule(config["momentum_teacher"], 1.0, steps)
    temperature = teacher_temperatures(
        config["warmup_teacher_temp"],
        config["teacher_temp"],
        epochs,
        warmup_epochs=config["warmup_teacher_temp_epochs"],
    )

    def crop(step, i, side):
        generator = torch.Generator().manual_seed(config["seed"] * 100 + step * 10 + i)
        small = torch.randn(config["batch_size"], 3, side // 8, side // 8, generator=generator)
        large = F.interpolate(small, size=(side, side), mode="bilinear", align_corners=False)
        return large.to(device)

    for step, expected in enumerate(files["steps"]):
        local = range(2, 2 + config["local_crops"])
        groups = [torch.cat([crop(step, i, 224) for i in range(2)])]
        groups += [torch.cat([crop(step, i, 96) for i in local])]
        epoch = step // per_epoch
        at = StepValues(
            lr=lr[step],
            weight_decay=decay[step],
            momentum=momentum[step],
            teacher_temperature=temperature[epoch],
            freeze_last_layer=epoch < config["freeze_last_layer"],
        )
        result = train_step(networks, [Views(groups=groups)], at, clip_grad=config["clip_grad"])
        assert result.loss.item() == pytest.approx(expected["loss"], rel=RELATIVE)
        assert at.lr == pytest.approx(expected["lr"], rel=1e-12, abs=1e-18)
        assert at.weight_decay == pytest.approx(expected["wd"], rel=1e-12)
        assert at.momentum == pytest.approx(expected["momentum"], rel=1e-12)
        assert _norm(networks.student) == pytest.approx(expected["student_norm"], rel=1e-6)
        assert _norm(networks.teacher) == pytest.approx(expected["teacher_norm"], rel=1e-6)
        centre_norm = networks.centre.norm().item()
        assert centre_norm == pytest.approx(expected["center_norm"], rel=RELATIVE)

    drift = ("qkv.bias",)  # no gradient in theory, so they drift with rounding
    if config["use_bn_in_head"]:
        drift += ("head.mlp.0.bias", "head.mlp.3.bias", "backbone.norm.bias")
    tolerance = 1e-5 if config["optimizer"] == "lars" else RELATIVE
    for which, model in (("student", networks.student), ("teacher", networks.teacher)):
        norms = files[f"final_{which}_param_norms"]
        checked = 0
        for parameter, value in model.named_parameters():
            if not parameter.endswith(drift) and parameter in norms:
                expected = pytest.approx(norms[parameter], rel=tolerance, abs=1e-12)
                assert value.norm().item() == expected, f"{which}.{parameter}"
                checked += 1
        assert checked >= len(norms) - len(drift) * config["depth"] - 3

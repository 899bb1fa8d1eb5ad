"""`dino bench`: both sides do the same work, the arithmetic of a row, and what the command says."""

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from typer.testing import CliRunner

from dino_cli.cli.app import app
from dino_cli.config.bench import BenchKnnConfig, BenchViewsConfig
from dino_cli.core.evaluation.neighbors import nearest, votes
from dino_cli.core.network.attention import last_cls_attention
from dino_cli.core.network.vit import build_vit
from dino_cli.core.training.loss import dino_loss, teacher_targets
from dino_cli.core.training.step import train_step
from dino_cli.data.listing.images import find_images
from dino_cli.errors import UsageError
from dino_cli.progress import Reporter
from dino_cli.tasks.bench import limits, measure, reference
from dino_cli.tasks.bench.knn import bench_knn
from dino_cli.tasks.bench.measure import PairedTimes, paired, row
from dino_cli.tasks.bench.networks import architecture, twins
from dino_cli.tasks.bench.photos import draw_photos, write_photos
from dino_cli.tasks.bench.views import bench_views, render_ten

CPU = torch.device("cpu")
TRAINING = ["train", "--arch", "vit_tiny", "--batch-size", "2", "--out-dim", "64", "--photos", "64"]
TRAINING += ["--workers", "1"]
KEYS = {
    "work", "unit", "ours", "reference", "ratio", "cpu_ratio", "limit", "limit_is",
    "share_of_limit", "pairs",
}  # fmt: skip


def check(result: dict[str, Any], rows: int, pairs: int = 3) -> None:
    """Keys of a result, and that its numbers fit one another."""
    assert {"device", "threads", "versions", "rows"} <= set(result)
    assert set(result["versions"]) >= {"torch", "torchvision", "timm", "pillow", "numpy"}
    assert len(result["rows"]) == rows
    for line in result["rows"]:
        assert set(line) == KEYS
        assert min(line["ours"], line["reference"], line["ratio"], line["limit"]) > 0
        # All three are rounded, the small ones coarsely.
        assert line["share_of_limit"] == pytest.approx(
            line["limit"] / line["ours"], rel=0.1, abs=1e-4
        )
        assert line["pairs"] >= pairs
    json.dumps(result)


def test_pairs_are_run_in_turn_and_told_as_medians(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that the works move. The first measurement is disturbed, and does not count."""
    clock, order = [0.0], []
    ours, theirs = iter([9, 50, 1, 1, 1]), iter([9, 4, 4, 6, 4])
    monkeypatch.setattr(measure.time, "perf_counter", lambda: clock[0])
    monkeypatch.setattr(measure.time, "monotonic", lambda: clock[0])

    def work(name: str, seconds: Any) -> Any:
        def run() -> None:
            order.append(name)
            clock[0] += next(seconds)

        return run

    pair = paired(
        work("ours", ours), work("theirs", theirs),
        seconds=67.0, device=CPU, reporter=Reporter(), name="x",
    )  # fmt: skip
    assert " ".join(order) == (
        "ours theirs ours theirs theirs ours ours theirs theirs ours"  # the first unmeasured
    )
    assert (pair.ours, pair.reference, pair.ratio, pair.pairs) == (1, 4, 4, 4)


def test_a_row_is_of_one_unit() -> None:
    pair = PairedTimes(ours=0.5, reference=2.0, ratio=4.1, cpu_ratio=None, pairs=7)
    assert row("x", pair, 10, "photo", limit=0.01, limit_is="peak") == {
        "work": "x", "unit": "ms/photo", "ours": 50.0, "reference": 200.0, "ratio": 4.1,
        "cpu_ratio": None, "limit": 10.0, "limit_is": "peak", "share_of_limit": 0.2, "pairs": 7,
    }  # fmt: skip


@pytest.mark.parametrize("seconds", [-1.0, float("nan")])
def test_impossible_times(seconds: float) -> None:
    with pytest.raises(UsageError, match="is not a time"):
        paired(int, int, seconds=seconds, device=CPU, reporter=Reporter(), name="x")


def test_limits_count_operations_and_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "_best", lambda work, device: (work(), 0.5)[1])
    assert limits.matrix_peak(CPU, "fp32") == 4 * 1536**3
    assert limits.memory_bandwidth(CPU) == 4 * 2**27


def test_more_photos_than_are_drawn_are_copies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dino_cli.tasks.bench.photos.DIFFERENT", 2)
    write_photos(tmp_path, 5, 60, 80)
    files = [file.path.read_bytes() for file in find_images([str(tmp_path)])]
    assert len(files) == 5
    assert files[0] == files[2] == files[4] != files[1] == files[3]


def test_photos_are_the_same_in_every_call_and_a_jpeg_is_as_long_as_a_cameras(
    tmp_path: Path,
) -> None:
    first, again = draw_photos(2, 60, 80), draw_photos(2, 60, 80)
    assert [p.shape for p in first] == [(60, 80, 3)] * 2
    assert np.array_equal(first, again)
    assert not np.array_equal(*first)
    write_photos(tmp_path, 1, 900, 1200)
    (file,) = find_images([str(tmp_path)])
    assert 1.2 < 8 * file.path.stat().st_size / (900 * 1200) < 3  # bits a pixel


def test_ten_views_of_both_ways() -> None:
    """The same shapes in the same order, and the same levels of normalised photos."""
    photo = draw_photos(1, 375, 500)[0]
    random.seed(0)
    torch.manual_seed(0)
    theirs = reference.ten_views()(Image.fromarray(photo))
    ours = render_ten(photo, 0, 1)
    assert [tuple(view.shape) for view in theirs] == [(3, 224, 224)] * 2 + [(3, 96, 96)] * 8
    assert [tuple(group.shape) for group in ours] == [(2, 3, 224, 224), (8, 3, 96, 96)]
    for values in (*ours, *theirs):
        assert values.dtype == torch.float32
        assert -2.2 < values.min() < values.max() < 2.7  # of ImageNet's means and deviations


def test_losses_of_both_ways() -> None:
    torch.manual_seed(0)
    student, teacher, centre = torch.randn(20, 30), torch.randn(4, 30), torch.randn(1, 30)
    ours = dino_loss(student, teacher_targets(teacher, centre, 0.04), views=10)
    assert ours.item() == pytest.approx(
        reference.pair_loss(student, teacher, centre, 10).item(), rel=1e-5
    )


def test_classes_of_both_ways() -> None:
    torch.manual_seed(0)
    index, queries, labels = torch.randn(300, 8), torch.randn(130, 8), torch.randint(5, (300,))
    theirs = reference.knn_classify(
        F.normalize(index, dim=1), labels, F.normalize(queries, dim=1), 5, 7
    )
    ((near, which),) = nearest(queries.numpy(), index.numpy(), 7)
    assert torch.equal(votes(near, labels[which], 5)[0][:, 0], theirs[:, 0])


def test_attention_of_both_ways() -> None:
    torch.manual_seed(0)
    net = build_vit(architecture("vit_tiny", 16)).eval()
    plain = reference.backbone("vit_tiny", 16).eval()
    plain.load_state_dict(net.state_dict())
    kept = reference._Kept(plain.blocks[-1].attn)
    plain.blocks[-1].attn = kept
    x = torch.randn(1, 3, 224, 224)
    with torch.inference_mode():
        plain(x)
        torch.testing.assert_close(
            last_cls_attention(net, x), kept.matrix[:, :, 0], rtol=1e-4, atol=1e-7
        )


def test_features_of_both_ways(tmp_path: Path) -> None:
    write_photos(tmp_path, 2, 120, 160)
    from dino_cli.config.embed import EmbedConfig
    from dino_cli.tasks.embed.forward import embed_files

    model, plain = twins("vit_tiny", 16, CPU, "fp32")
    compute = EmbedConfig(batch_size=2, workers=0, device="cpu")
    files = find_images([str(tmp_path)])
    (ours,) = embed_files(files, model, model.preprocessing, compute, Reporter())
    theirs = reference.extract(plain, tmp_path, CPU, batch_size=2, workers=0)
    np.testing.assert_allclose(ours.features, theirs.numpy(), rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_steps_of_both_ways() -> None:
    """From equal weights, without stochastic depth: the loss of three steps."""
    from dino_cli.config.bench import BenchStepConfig
    from dino_cli.core.training.step import Views
    from dino_cli.tasks.bench import step as bench

    config = BenchStepConfig(batch_size=2, out_dim=64)
    theirs = reference.Step("vit_tiny", 16, 64, CPU, half=False)
    from dino_cli.config.train import TrainConfig
    from dino_cli.tasks.train.setup import architecture_of, build_networks

    train = TrainConfig(arch="vit_tiny", out_dim=64, drop_path=0.0)
    networks = build_networks(train, architecture_of(train), CPU, Reporter())
    for network, plain in ((networks.student, theirs.student), (networks.teacher, theirs.teacher)):
        plain.backbone.load_state_dict(network.backbone.state_dict())
        plain.mlp.load_state_dict(network.head.mlp.state_dict())
        with torch.no_grad():
            plain.last.parametrizations.weight.original1.copy_(network.head.last_layer.weight_v)
        for module in plain.modules():
            if hasattr(module, "drop_prob"):
                module.drop_prob = 0.0
    # Of 224 pixels alone: at 96 the original's resampling of positions and timm's differ.
    views = torch.randn(2 * config.batch_size, 3, 224, 224)
    for _ in range(3):
        ours = train_step(networks, [Views(groups=[views])], bench.AT, clip_grad=3.0).loss.item()
        assert ours == pytest.approx(theirs(views.chunk(2)), rel=1e-3)


def test_results_of_small_benches() -> None:
    knn = bench_knn(
        BenchKnnConfig(queries=70, rows=300, dim=16, k=5, classes=7, seconds=0, device="cpu"),
        Reporter(),
    )
    check(knn, 1)
    assert knn["agreement"] == 1
    assert knn["memory"]["search"]["ours"] > 70 * 300 * 4
    views = bench_views(BenchViewsConfig(photos=1, seconds=0, device="cpu"), Reporter())
    check(views, 1)
    assert views["rows"][0]["limit_is"] == "memory bandwidth"


def run(*arguments: str, code: int = 0) -> Any:
    result = CliRunner().invoke(app, ["bench", *arguments, "--device", "cpu"])
    assert result.exit_code == code, (result.output, result.exception)
    return result


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["views", "--photos", "0"], "--photos"),
        (["knn", "--queries", "9", "--rows", "90", "--seconds", "-1"], "--seconds -1"),
        (["knn", "--rows", "0"], "--rows"),
        (["knn", "--k", "9", "--rows", "8"], "--k 9 is more than --rows 8"),
        (["step", "--batch-size", "0"], "--batch-size 0"),
        (["train", "--photos", "0"], "--photos must be at least 1"),
        (["train", "--seconds", "nan"], "--seconds nan is not a time"),
        (["train", "--batch-size", "9", "--photos", "8"], "--photos 8 is less than one batch of 9"),
        (["step", "--patch-size", "0"], "--patch-size"),
        (["attention", "--patch-size", "0"], "--patch-size"),
        (["embed", "--megapixels", "1000"], "--megapixels 1000"),
        (["attention", "--image-size", "481"], "--image-size 481 is not a multiple of 16"),
        (["attention", "--photos", "0"], "--photos 0"),
        (["knn", "--device", "tpu"], "tpu"),
    ],
)
def test_misuse_is_told(arguments: list[str], told: str) -> None:
    result = CliRunner().invoke(app, ["bench", *arguments])
    assert result.exit_code == 2, result.output
    assert told in result.stderr
    assert "Traceback" not in result.output


def test_what_a_person_reads() -> None:
    text = run("knn", "--queries", "70", "--rows", "300", "--classes", "7", "--seconds", "0").stdout
    for words in ("k-NN 70 x 300 x 384", "original's way", "ratio", "bare product", "%"):
        assert words in text
    assert "same class in both ways: 100.00 %" in text
    assert "memory of the search" in text


def test_a_row_without_processor_time_beside_one_with(monkeypatch: pytest.MonkeyPatch) -> None:
    """As `bench views` has on a GPU: one core's views, and the device's in batches."""
    told = BenchViewsConfig(photos=1, seconds=0, device="cpu")
    result: Any = bench_views(told, Reporter())
    result["rows"].append({**result["rows"][0], "work": "on the device", "cpu_ratio": None})
    monkeypatch.setattr("dino_cli.tasks.bench.views.bench_views", lambda *_: result)
    first, second = run("views").stdout.splitlines()[1:]
    assert len(first.split("\t")) == len(second.split("\t"))
    assert second.split("\t")[0] == "on the device"
    assert second.split("\t")[5] == ""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "rows"),
    [
        (["views", "--photos", "1"], 1),
        (["step", "--batch-size", "1", "--out-dim", "4096"], 1),
        (TRAINING, 1),
        (["embed", "--arch", "vit_tiny", "--photos", "4", "--batch-size", "2"], 1),
        (["embed", "--arch", "vit_tiny", "--photos", "2", "--megapixels", "3"], 1),
        (["knn", "--queries", "100", "--rows", "5000"], 1),
        (["attention", "--arch", "vit_tiny", "--photos", "1", "--image-size", "224"], 2),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_commands_in_json(arguments: list[str], rows: int) -> None:
    result = json.loads(run(*arguments, "--seconds", "0", "--json").stdout)
    check(result, rows, pairs=1 if arguments[0] == "train" else 3)
    if arguments[0] == "step":
        assert result["memory"]["loss"]["ours"] < result["memory"]["loss"]["reference"] / 2
    if arguments[0] == "embed":
        assert result["cosine"] >= 0.999
    if arguments[0] == "knn":
        assert result["agreement"] == 1

"""`dino demo`, whole but tiny."""

import json
import re
import shlex
from dataclasses import asdict

import numpy as np
import pytest
import torch
from in_process import dino

import dino_cli.runtime.devices as devices
import dino_cli.tasks.demo.draw as draw_task
import dino_cli.tasks.demo.run as demo_task
import dino_cli.tasks.demo.training as training_task
from dino_cli.config.shared import Preprocessing
from dino_cli.core.network.architecture import VitArchitecture, architecture_to_json
from dino_cli.core.network.vit import build_vit
from dino_cli.data.drawings.images import CLASSES, draw
from dino_cli.data.drawings.sets import Series, draw_sets
from dino_cli.errors import Interrupted
from dino_cli.store.runs.checkpoints import save_teacher
from dino_cli.store.runs.folder import RunFolder
from dino_cli.store.runs.log import Log

TINY = demo_task.DemoSizes(bank=24, queries=6, masks=4, gallery=2, drawn=32, steps=2)
RECIPE = {
    "epochs": 4,
    "batch_size": 8,
    "width": 32,
    "depth": 2,
    "heads": 2,
    "out_dim": 32,
    "head_hidden": 32,
    "head_bottleneck": 16,
    "warmup_teacher_temp_epochs": 1,
    "global_size": 32,
    "local_size": 16,
    "final_size": (32, 16),
    "workers": 0,
}


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A run's teacher.safetensors: two heads, drawings of 32 px, attention at 48 px."""
    architecture = VitArchitecture(width=32, depth=2, heads=2, patch_size=8, grid=(4, 4))
    torch.manual_seed(3)
    folder = tmp_path_factory.mktemp("network")
    about = {
        "architecture": architecture_to_json(architecture),
        "preprocessing": asdict(Preprocessing(resize=37, crop=32)),
        "attention_size": 50,
    }
    save_teacher(RunFolder(folder).teacher, build_vit(architecture).state_dict(), about)
    return folder / "teacher.safetensors"


@pytest.fixture
def tiny(monkeypatch, tmp_path):
    monkeypatch.setattr(demo_task, "FULL", TINY)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def leaves(value):
    if isinstance(value, dict):
        for one in value.values():
            yield from leaves(one)
    elif isinstance(value, float):
        yield value


def test_the_demo_leaves_a_page_whose_numbers_are_the_results(tiny, weights):
    result = json.loads(dino("demo", "--weights", weights, "--json", "--workers", 1).stdout)
    page = (tiny / "demo" / "index.html").read_text()

    shown = {float(v) for v in re.findall(r'<data value="([^"]+)">', page)}
    assert set(leaves(result["knn"]["top1"])) <= shown
    masks = result["masks"]
    for score in (*masks["trained"].values(), *masks["untrained"].values(), *masks.values()):
        if isinstance(score, dict) and "iou" in score:
            assert {score["iou"], score["found"]} <= shown
    at = {row.pop("share"): row for row in masks["trained"]["by_share"]}
    assert {value for row in at.values() for value in row.values()} <= shown
    assert at[0.6]["mean"] == masks["trained"]["mean"]["iou"]
    assert at[0.6]["best_head"] == masks["trained"]["best_head"]["iou"]
    assert at[0.6]["best_head"] <= at[0.6]["best_of_each"]
    assert {result["training"]["first"], result["training"]["last"]} <= shown

    assert result["page"] == "demo/index.html"
    assert result["knn"]["bank"] == TINY.bank
    assert masks["size"] == 48  # 50, in whole patches
    assert len(result["training"]["losses"]) == TINY.steps
    assert all(np.isfinite(result["training"]["losses"]))

    # One file: nothing is asked of anybody, and every picture says what it shows.
    assert not re.search(r"https?://|<script|<link rel=.stylesheet", page)
    sources = re.findall(r'<img src="([^"]{12})', page)
    assert len(sources) > 2 * (2 + 2 * 4)
    assert set(sources) <= {"data:image/j", "data:image/p"}
    assert len(re.findall(r'<img [^>]*alt="[^"]+"', page)) == len(sources)

    # The gallery's drawings are those of seeds that no training used.
    assert sorted(p.stem for p in (tiny / "demo/gallery").iterdir()) == sorted(CLASSES[:2])
    assert (tiny / "demo/attention" / CLASSES[0] / "grid.png").is_file()
    assert sorted(p.name for p in (tiny / "demo").iterdir()) == [
        "attention",
        "drawn",
        "gallery",
        "index.html",
    ]
    assert [p.name for p in tiny.iterdir()] == ["demo"]

    # A second demo does not replace the first, unless asked to.
    again = dino("demo", "--weights", weights, code=1)
    assert "already exists" in again.stderr
    assert "--overwrite" in again.stderr
    assert (tiny / "demo" / "index.html").read_text() == page

    # The first two commands that it proposes work as they stand.
    for line in result["next"][:2]:
        for part in line.split(" && "):
            words = shlex.split(part)
            assert words[0] == "dino"
            dino(*words[1:], "--quiet")
    assert (tiny / "demo/cats").is_dir()
    assert shlex.split(result["next"][2]) == ["dino", "demo", "--train"]


@pytest.mark.slow
def test_the_result_is_a_table_and_where_to_look(tiny, weights, monkeypatch):
    monkeypatch.setattr(
        demo_task, "live_steps", lambda *_: demo_task_live(losses=[3.0, 2.0], images_per_second=9)
    )
    out = dino("demo", "--weights", weights, "-o", "a b", "--workers", 1).stdout.splitlines()
    assert out[0].split("\t")[1:3] == ["trained", "untrained"]
    assert "page: a b/index.html" in out
    assert out[-1].strip() == "dino demo --train -o 'a b'"


def demo_task_live(**values):
    from dino_cli.tasks.demo.live import LiveSteps

    return LiveSteps(**values)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (OSError(28, "No space left"), 1),
        pytest.param(KeyboardInterrupt(), 130, marks=pytest.mark.slow),
    ],
)
def test_a_demo_that_fails_leaves_nothing(tiny, weights, monkeypatch, error, code):
    def failing(*_):
        raise error

    monkeypatch.setattr(demo_task, "live_steps", failing)
    result = dino("demo", "--weights", weights, "--workers", 1, code=code)
    assert "Traceback" not in result.stderr
    assert list(tiny.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--count", 3), "--count is for --images"),
        (("--train", "--model", "dino_vits16"), "--model is for showing"),
        (("--train", "--images", "x"), "choose one"),
        (("--seed", -1), "--seed -1 must not be negative"),
    ],
)
def test_misuse(tiny, arguments, said):
    assert said in dino("demo", *arguments, code=2).stderr
    assert list(tiny.iterdir()) == []


@pytest.mark.parametrize(("workers", "processes"), [((), 4), (("--workers", 2), 2)])
def test_drawings_are_made_by_as_many_processes_as_asked(tiny, monkeypatch, workers, processes):
    taken = []

    def drawn(_, jobs, processes, *, chunk):
        taken.append(processes)
        return iter(jobs)

    monkeypatch.setattr(devices, "available_cores", lambda: 9)
    monkeypatch.setattr(draw_task, "side_by_side", drawn)
    dino("demo", "--images", "drawn", "--count", 700, *workers)
    assert taken == [processes]


@pytest.mark.parametrize("arguments", [("-o", "none/demo"), ("--images", "none/drawn")])
def test_a_missing_parent_is_refused(tiny, arguments):
    assert (
        "the folder 'none' does not exist; mkdir -p none" in dino("demo", *arguments, code=1).stderr
    )
    assert list(tiny.iterdir()) == []


@pytest.mark.slow
def test_the_training_goes_on_where_it_stopped(tiny, monkeypatch):
    sizes = training_task.TrainingSizes(
        images=16, size=40, every=4, bank=12, queries=4, masks=2, gallery=2, large=1
    )
    monkeypatch.setattr(training_task, "SIZES", sizes)
    recipe, train = training_task.demo_recipe, training_task.train
    monkeypatch.setattr(training_task, "demo_recipe", lambda **f: recipe(**{**f, **RECIPE}))
    calls = []

    def stopped_in_the_second_part(config, reporter):
        calls.append(config.max_steps)
        if len(calls) == 2:
            raise Interrupted("stopped; go on with: dino train --resume demo/run")
        return train(config, reporter)

    monkeypatch.setattr(training_task, "train", stopped_in_the_second_part)
    command = ("demo", "--train", "--workers", 1)
    stopped = dino(*command, code=130)
    assert "stopped at step 4 of 8" in stopped.stderr
    assert stopped.stderr.rstrip().endswith("go on with: dino demo --train")
    page = (tiny / "demo/training.html").read_text()
    assert re.findall(r"<h3>Step (\d+)</h3>", page) == ["0", "4"]

    assert "--seed 0, not 1" in dino(*command, "--seed", 1, code=1).stderr

    result = json.loads(dino(*command, "--json").stdout)
    assert calls == [4, 8, 8]
    assert (result["steps"], result["total"]) == (8, 8)
    assert [m["step"] for m in result["moments"]] == [0, 4, 8]
    steps = [e["step"] for e in Log.read(tiny / "demo/run/log.jsonl") if "step" in e]
    assert steps == sorted(set(steps))
    page = (tiny / "demo/training.html").read_text()
    assert re.findall(r"<h3>Step (\d+)</h3>", page) == ["0", "4", "8"]
    shown = {float(v) for v in re.findall(r'<data value="([^"]+)">', page)}
    for moment in result["moments"]:
        assert {moment["iou"], moment["knn"], moment["best_iou"]} <= shown
    assert "http" not in page.replace("http-equiv", "")

    # A training that is complete is shown again, not repeated.
    assert json.loads(dino(*command, "--json").stdout)["moments"] == result["moments"]
    assert calls == [4, 8, 8]
    for line in result["next"][1:]:
        for part in line.split(" && "):
            if "000009" not in part:
                dino(*shlex.split(part)[1:], "--quiet")


# Numbers


def test_sets_are_the_drawings_whatever_the_processes():
    series = [Series(seed=3, count=28, size=16), Series(seed=4, count=2, size=24)]
    told = []
    first, second = draw_sets(series, advance=told.append)
    assert sum(told) == 30
    assert first.images.shape == (28, 16, 16, 3)
    assert np.array_equal(first.images[27], draw(3, 27, 16).image)
    assert np.array_equal(second.masks[1], draw(4, 1, 24).mask)
    assert second.labels.tolist() == [0, 1]
    parallel = draw_sets(series, processes=2)
    for a, b in zip((first, second), parallel, strict=True):
        assert np.array_equal(a.images, b.images)
        assert np.array_equal(a.masks, b.masks)


def test_untrained_twins_are_equal_and_leave_chance_alone(weights):
    from dino_cli.config.embed import EmbedConfig
    from dino_cli.progress import Reporter
    from dino_cli.tasks.model import open_model, untrained_twin

    model = open_model(EmbedConfig(weights=weights), Reporter())
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    one, two = untrained_twin(model), untrained_twin(model)
    assert torch.equal(torch.rand(1), expected)
    names = dict(model.backbone.net.named_parameters())
    a, b = (dict(m.backbone.net.named_parameters()) for m in (one, two))
    assert all(torch.equal(a[name], b[name]) for name in names)
    assert not torch.equal(a["cls_token"], names["cls_token"])

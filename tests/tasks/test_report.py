"""`dino report` through the command line, on a run made for it."""

import itertools
import json
import re
import shlex
import shutil
from html.parser import HTMLParser

import numpy as np
import page_reader
import pytest
from in_process import dino

from dino_cli.progress import Reporter
from dino_cli.store.runs.log import Log
from dino_cli.store.runs.watched import write_attention
from dino_cli.tasks.demo.draw import draw_folder
from dino_cli.tasks.report import charts_of

FLAGS = shlex.split("""
    --arch vit_tiny --patch-size 8 --width 32 --depth 2 --heads 2 --out-dim 64 --head-hidden 48
    --head-bottleneck 16 --batch-size 8 --epochs 3 --global-size 32 --local-size 16
    --local-crops-number 2 --device cpu --precision fp32 --workers 0 --log-every 1 --watch 2
    --warmup-epochs 1
""")


def losses(run):
    return [entry["loss"] for entry in Log.read(run / "log.jsonl") if "step" in entry]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished run with k-NN in its log, under a name that must be escaped."""
    folder = tmp_path_factory.mktemp("runs")
    draw_folder(
        folder / "drawn", count=20, size=40, seed=0, style="final", reporter=Reporter(), masks=False
    )
    images, run = folder / "drawn" / "images", folder / "<b>run"
    dino("train", images, *FLAGS, "-o", run, "--eval-data", images)
    return run


@pytest.fixture
def run(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / finished.name)


class Page(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.tags, self.sources, self.words = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.sources += [value for name, value in attrs if name in ("src", "href")]

    def handle_data(self, data):
        self.words.append(data)


def write_log(run, entries):
    (run / "log.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in entries))


def change_config(run, part, **values):
    config = json.loads((run / "config.json").read_text())
    config[part] |= values
    (run / "config.json").write_text(json.dumps(config))


def test_the_page_shows_curves_attention_and_the_command(run):
    result = json.loads(dino("report", run, "--json").stdout)
    assert result["steps"] == result["of"] == 6
    assert result["page"] == str(run / "report.html")
    epochs = [e for e in Log.read(run / "log.jsonl") if "knn_top1" in e]
    assert result["knn_top1"] == epochs[-1]["knn_top1"]
    page = Page((run / "report.html").read_text())
    text = " ".join(page.words)
    assert "<b>run" in text  # escaped, so it is text
    assert "Finished after 6 steps." in text
    assert "Trained without labels on 20 images." in text
    first, other = (text.index(f" {name} ") for name in ("watch", "weight-decay"))
    assert text.index("Every setting") < first < text.index(" accumulate ") < other, "changed first"
    assert "b" not in page.tags[: page.tags.index("h1") + 1]
    assert all(source.startswith("data:") for source in page.sources)
    assert "script" not in page.tags
    assert page.tags.count("svg") == 17  # every curve, and k-NN
    # 2 photos, 4 epochs (0 to 3) of their attention, and each of 2 heads at the end
    assert page.tags.count("img") == 2 + 2 * 4 + 2 + 2 * 2


def test_a_run_that_stopped_between_logged_steps_is_told_by_its_epochs(run):
    kept = [e for e in Log.read(run / "log.jsonl") if e["epoch"] < 2 and e.get("step", 0) < 1]
    write_log(run, kept)
    assert dino("report", run).stdout.endswith("report.html: 4 of 6 steps\n")
    assert json.loads(dino("report", run, "--json", "--overwrite").stdout)["steps"] == 4
    assert "Step 4 of 6; the run is not finished" in (run / "report.html").read_text()


def test_the_command_on_the_page_makes_the_same_run(run, tmp_path):
    dino("report", run, "-o", tmp_path / "page.html")
    words = Page((tmp_path / "page.html").read_text()).words
    command = next(word for word in words if word.startswith("dino train"))
    arguments = shlex.split(command)[1:]
    arguments[arguments.index("-o") + 1] = str(tmp_path / "again")
    dino(*arguments)
    first, again = (
        [e["loss"] for e in Log.read(r / "log.jsonl") if "step" in e]
        for r in (run, tmp_path / "again")
    )
    assert first == again


def test_a_run_that_collapsed_says_so(run, tmp_path):
    lines = Log.read(run / "log.jsonl")
    change_config(run, "run", steps=400, images=400)
    change_config(run, "train", epochs=8)
    template = {
        **lines[0],
        "target_spread": 0.01,
        "entropy_share": 0.99,
        "loss": 4.15,
        "data_wait": 0,
    }
    write_log(run, [{**template, "step": step} for step in range(0, 300, 10)])
    result = json.loads(dino("report", run, "--json", "-o", tmp_path / "page.html").stdout)
    assert len(result["remarks"]) == 1
    assert "uniform collapse" in result["remarks"][0]
    assert "Uniform collapse" in (tmp_path / "page.html").read_text()

    # Of a run so short the end is the first time that it is told; max_steps may be that end.
    short = [{**template, "step": step} for step in range(0, 50, 7)]
    short[0]["target_spread"] = 1.5
    write_log(run, short)
    for epochs, stop, told in ((1, None, 1), (2, None, 0), (2, 50, 1)):
        change_config(run, "train", epochs=epochs, max_steps=stop)
        result = json.loads(dino("report", run, "--json", "-o", tmp_path / "2.html").stdout)
        assert len(result["remarks"]) == told
        (tmp_path / "2.html").unlink()


@pytest.mark.parametrize(("apart", "told"), [(10, True), (2, False)])
def test_waiting_is_told_once_it_has_lasted(run, apart, told):
    """The log tells no times: eight lines of 8 images a second are 80 seconds here, or 16."""
    change_config(run, "run", steps=400, images=400)
    line = {**Log.read(run / "log.jsonl")[0], "images_per_second": 8.0, "data_wait": 0.5}
    write_log(run, [{**line, "step": apart * (i + 1) - 1} for i in range(8)])
    remarks = json.loads(dino("report", run, "--json").stdout)["remarks"]
    assert ["50 % of the time goes into waiting" in remark for remark in remarks] == [True] * told


def test_the_figures_at_the_top_are_those_of_the_log(run):
    line = {**Log.read(run / "log.jsonl")[0], "epoch": 0}
    top = [
        {"step": 0, "loss": 4.0, "target_spread": 1.75, "images_per_second": 100.0},
        {"step": 1, "loss": 2.25, "target_spread": 1.5, "images_per_second": 900.0},
        {"step": 2, "loss": 3.25, "target_spread": 1.25, "images_per_second": 300.0},
    ]
    top1s = enumerate((50.0, 70.5, 60.5, None))
    epochs = [{"epoch": epoch, "knn_top1": top1} for epoch, top1 in top1s]
    write_log(run, [*({**line, **one} for one in top), *epochs])
    change_config(run, "run", steps=10)
    result = json.loads(dino("report", run, "--json").stdout)
    assert (result["loss"], result["knn_top1"]) == (3.25, 60.5)
    assert (result["steps"], result["of"]) == (8, 10)
    page = (run / "report.html").read_text()
    head = page[page.index('<ul class="facts">') : page.index("</header>")]
    assert re.findall(r'<b><data value="([0-9.]+)"', head) == ["60.5", "3.25", "1.25", "300.0"]
    label = '<svg[^>]*aria-label="k-NN from 50.0 to 60.5 %."(.*?)</svg>'
    chart = re.search(label, page, re.DOTALL)[1]
    across = re.findall(r">([0-9.,]+)</text>", chart[chart.index('"middle"') :])
    assert (across[0], across[-1]) == ("1", "3"), "epochs that are over"


def test_a_run_whose_log_or_counts_are_older_or_damaged(run):
    lines = [
        {k: v for k, v in e.items() if k != "update_ratio"} for e in Log.read(run / "log.jsonl")
    ]
    write_log(run, lines)
    dino("report", run)
    for wrong in ("many", True, 0, 2**60):
        change_config(run, "run", images=wrong, steps=wrong)
        result = json.loads(dino("report", run, "--overwrite", "--json").stdout)
        assert (result["of"], result["remarks"]) == (6, [])
        assert "Trained without labels" not in (run / "report.html").read_text()


def test_curves_of_a_long_log_are_of_means():
    lines = [{"step": i, "loss": 3.0 + 2 * (i % 2), "lr": i / 1e6} for i in range(1, 1001)]
    charts = charts_of(lines, {1: 50.0})
    (loss,), (_,) = charts["learning"], charts["schedules"]  # one epoch makes no curve of k-NN
    assert charts["speed"] == []
    assert loss.alt == "loss from 4 to 4."
    points = [point.split(",") for point in loss.line.split()]
    assert len(points) == 500
    at = {label: f"{place:g}" for place, label in (*loss.x_ticks, *loss.y_ticks)}
    assert {y for _, y in points} == {at["4"]}
    assert points[-1][0] == at["1,000"]


def test_a_curve_leaves_out_what_is_no_figure():
    values = (float("nan"), 0.998, None, 0.99, 0.996)
    lines = [{"step": i, "momentum": value} for i, value in enumerate(values)]
    lines[2] |= {"lr": 0.1}
    charts = charts_of(lines, {})
    assert charts["learning"] == []
    (momentum,) = charts["schedules"]  # one point makes no curve
    assert momentum.alt == "momentum from 0.998 to 0.996."
    assert len(momentum.dots) == 3
    assert momentum.y_ticks[0][1] == "0.99", "a range of its own: all values lie near 1"


def test_attention_is_shown_of_early_epochs_and_of_the_last(run):
    """Of each photo the mean of the heads; every head at the end."""
    for path in (run / "watch").glob("attention-*.npz"):
        path.unlink()
    attention = np.random.default_rng(0).random((12, 2, 2, 4, 4)).astype(np.float32)
    for number, one in enumerate(attention):
        write_attention(run / "watch", 5 * number, one)
    write_attention(run / "watch", 60, attention[0, :1])  # of other photos: left out
    dino("report", run)
    page = page_reader.Page(run / "report.html")
    titles = re.findall(r"<h3>(\d+) epochs</h3>", (run / "report.html").read_text())
    assert titles == ["0", "5", "10", "20", "25", "40", "55"]

    def is_of(alt, values):
        (picture,) = page.pictures(alt)
        return page_reader.rises_with(page_reader.levels(picture, "inferno"), values)

    for number, n in itertools.product((0, 5, 11), (0, 1)):
        alt = f"Photo {n + 1}: attention after {5 * number} epochs."
        assert is_of(alt, attention[number, n].mean(axis=0))
    assert "Every head after 55 epochs" in page.words
    for n, head in np.ndindex(2, 2):
        assert is_of(f"Photo {n + 1}, head {head}.", attention[11, n, head])


def test_what_is_missing_is_said(run, tmp_path):
    assert "not a run folder" in dino("report", tmp_path, code=1).stderr
    dino("report", run)
    assert "already exists" in dino("report", run, code=1).stderr
    dino("report", run, "--overwrite")
    (run / "log.jsonl").unlink()
    assert "has no step yet" in dino("report", run, "--overwrite", code=1).stderr
    assert "does not exist" in dino("report", run, "-o", tmp_path / "no" / "p.html", code=1).stderr
    assert "is a page, which" in dino("report", run, "-o", tmp_path / "p.pdf", code=2).stderr


@pytest.mark.parametrize("name", ["page.htm", "PAGE.HTML"])
def test_a_page_under_another_name(run, tmp_path, name):
    again = run.rename(run.with_name("my run"))
    change_config(again, "train", config="small.toml")
    dino("report", again, "-o", tmp_path / name)
    assert not (again / "report.html").exists()
    words = Page((tmp_path / name).read_text()).words
    command = next(word for word in words if word.startswith("dino train"))
    assert shlex.split(command)[:4] == ["dino", "train", "-o", str(again)]
    assert "small.toml" not in command  # its settings are named one by one


def test_a_damaged_watch_folder_is_left_out(run):
    for path in (run / "watch").glob("attention-*.npz"):
        path.write_bytes(b"x")
    dino("report", run, "--overwrite")
    assert Page((run / "report.html").read_text()).tags.count("img") == 0

"""`dino report` through the command line, on a run made for it."""

import json
import shlex
import shutil
from html.parser import HTMLParser

import pytest
from in_process import dino

from dino_cli.progress import Reporter
from dino_cli.store.runs.log import Log
from dino_cli.tasks.demo.draw import draw_folder

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


def test_the_page_shows_curves_attention_and_the_command(run):
    result = json.loads(dino("report", run, "--json").stdout)
    assert result["steps"] == result["of"] == 6
    assert result["page"] == str(run / "report.html")
    epochs = [e for e in Log.read(run / "log.jsonl") if "knn_top1" in e]
    assert result["knn_top1"] == epochs[-1]["knn_top1"]
    page = Page((run / "report.html").read_text())
    text = " ".join(page.words)
    assert "<b>run" in text  # escaped, so it is text
    assert "b" not in page.tags[: page.tags.index("h1") + 1]
    assert all(source.startswith("data:") for source in page.sources)
    assert "script" not in page.tags
    assert page.tags.count("svg") == 17  # every curve, and k-NN
    # 2 photos, 4 epochs (0 to 3) of their attention, and each of 2 heads at the end
    assert page.tags.count("img") == 2 + 2 * 4 + 2 + 2 * 2


def test_a_run_that_stopped_between_logged_steps_is_told_by_its_epochs(run):
    kept = [e for e in Log.read(run / "log.jsonl") if e["epoch"] < 2 and e.get("step", 0) < 1]
    (run / "log.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in kept))
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
    config = json.loads((run / "config.json").read_text())
    config["run"] |= {"steps": 400, "images": 400}
    config["train"]["epochs"] = 8
    (run / "config.json").write_text(json.dumps(config))
    template = {
        **lines[0],
        "target_spread": 0.01,
        "entropy_share": 0.99,
        "loss": 4.15,
        "data_wait": 0,
    }
    text = "".join(json.dumps({**template, "step": step}) + "\n" for step in range(0, 300, 10))
    (run / "log.jsonl").write_text(text)
    result = json.loads(dino("report", run, "--json", "-o", tmp_path / "page.html").stdout)
    assert len(result["remarks"]) == 1
    assert "uniform collapse" in result["remarks"][0]
    assert "Uniform collapse" in (tmp_path / "page.html").read_text()


def test_what_is_missing_is_said(run, tmp_path):
    assert "not a run folder" in dino("report", tmp_path, code=1).stderr
    dino("report", run)
    assert "already exists" in dino("report", run, code=1).stderr
    dino("report", run, "--overwrite")
    (run / "log.jsonl").unlink()
    assert "has no step yet" in dino("report", run, "--overwrite", code=1).stderr
    assert "does not exist" in dino("report", run, "-o", tmp_path / "no" / "p.html", code=1).stderr
    assert "is a page, which" in dino("report", run, "-o", tmp_path / "p.pdf", code=2).stderr


def test_a_damaged_watch_folder_is_left_out(run):
    for path in (run / "watch").glob("attention-*.npz"):
        path.write_bytes(b"x")
    dino("report", run, "--overwrite")
    assert Page((run / "report.html").read_text()).tags.count("img") == 0

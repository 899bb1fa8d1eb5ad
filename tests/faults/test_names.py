"""Names that nobody would choose: found, kept to the byte, without effect in tables and pages."""

import csv
import json
import os
import re
import shutil
import socket
import subprocess
from pathlib import Path

import pytest
from browser import CHROMIUM, title_of
from small_vit import invoke, photo, video, write_small_vit

from dino_cli.data.decoding.video_frames import open_capture
from dino_cli.store.pictures import videos

SCRIPT = "<script>document.title='ran'</script>"
HANDLER = "<img src=x onerror=\"document.title='ran'\">"
NAMES = [
    "plain",
    "with space",
    "new\nline",
    "carriage\rreturn",
    "tab\tbed",
    "quote'\"`",
    "back\\slash",
    "🦕 émoji",
    os.fsdecode(b"latin-\xe9"),
    "-o",
    "--overwrite",
    "=1+1",
    "@SUM(A1)",
    "%s %d {x} ${HOME} $(id)",
    "a;b,c",
    "[red]rich",
    "{{ 7*7 }}",
    SCRIPT.replace("/", "∕"),
    HANDLER,
    "\x1b[31mred",
    "x" * 251,
    "é" * 125,
    "a..b",
    "trailing. ",
    "CON",
]


@pytest.fixture(scope="module")
def strange(tmp_path_factory):
    """A folder of pictures with such names, of which Linux has no objection; its weights beside."""
    top = tmp_path_factory.mktemp("strange")
    seed = photo(top / "seed.png", size=(24, 20)).read_bytes()
    for name in NAMES:
        folder = top / "photos" / ("class" if name != "plain" else HANDLER)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.png").write_bytes(seed)
    write_small_vit(top / "w.safetensors")
    return top


def test_every_name_is_embedded_and_comes_back(strange, tmp_path):
    words = ("embed", strange / "photos", "--weights", strange / "w.safetensors", "--workers", 0)
    for suffix in (".npy", ".csv", ".npz", ".parquet"):
        (tmp_path / suffix[1:]).mkdir()
        result = invoke(*words, "-o", tmp_path / suffix[1:] / f"f{suffix}")
        assert "Traceback" not in result.output
    from dino_cli.store.embeddings.reading import read_embeddings

    wanted = sorted(f"{name}.png" for name in NAMES)
    for suffix in (".npy", ".csv", ".npz", ".parquet"):
        found = read_embeddings(tmp_path / suffix[1:] / f"f{suffix}").paths
        assert sorted(Path(path).name for path in found) == wanted
    import pyarrow.parquet as pq

    names = pq.read_table(tmp_path / "parquet" / "f.parquet")["path"].to_pylist()
    assert {r"latin-\xe9.png", r"back\slash.png"} <= {Path(name).name for name in names}
    with (tmp_path / "csv" / "f.csv").open("rb") as file:
        assert not any(line.startswith((b"=", b"@", b"+")) for line in file)
    checked = subprocess.run(
        ["sha256sum", "--check", "--quiet", tmp_path / "npy" / "f.npy.sources"],
        capture_output=True, text=True, errors="replace",
    )  # fmt: skip
    assert checked.returncode == 0, checked.stderr + checked.stdout


def test_names_on_the_command_line(strange, tmp_path):
    """Given one by one, from their own folder; what looks like an option comes behind `--`."""
    folder = strange / "photos" / "class"
    before = Path.cwd()
    os.chdir(folder)
    try:
        some = [
            f"{name}.png" for name in ("=1+1", "new\nline", "--overwrite", "-o", "🦕 émoji", "a..b")
        ]
        words = ["--weights", strange / "w.safetensors", "--workers", 0, "-o", tmp_path / "f.npy"]
        from typer.testing import CliRunner

        from dino_cli.cli.app import app

        result = CliRunner().invoke(
            app, ["embed", *map(str, words), "--device", "cpu", "--", *some]
        )
        assert result.exit_code == 0, result.output
    finally:
        os.chdir(before)
    with (tmp_path / "f.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))[1:]
    assert rows[0][0] == "./=1+1.png"
    assert len(rows) == len(some)


VIDEO_NAMES = ["latin-\udce9", "🦕 émoji", "new\nline", "a:b", "p%03d", "-o", "x#frame=1"]


@pytest.mark.parametrize("h264", [pytest.param(True, marks=pytest.mark.slow), False])
def test_videos_of_any_name_are_read_and_written(strange, tmp_path, monkeypatch, capfd, h264):
    """OpenCV ends the process at a name that is not UTF-8; FFmpeg takes `a:b` for an address."""
    if not h264:
        monkeypatch.setattr(videos, "h264_program", lambda: None)
    (tmp_path / "clips").mkdir()
    seed = video(tmp_path / "seed.mp4", frames=3).read_bytes()
    for name in VIDEO_NAMES:
        (tmp_path / "clips" / f"{name}.mp4").write_bytes(seed)
    (tmp_path / "clips" / "empty.mp4").write_bytes(b"")
    monkeypatch.chdir(tmp_path / "clips")
    weights = ("--weights", strange / "w.safetensors")
    if h264:
        invoke("embed", ".", "a:b.mp4", "empty.mp4", *weights, "-o", tmp_path / "f.npy")
        with (tmp_path / "f.csv").open(errors="surrogateescape", newline="") as file:
            rows = list(csv.DictReader(file))
        assert len(rows) == 3 * len(VIDEO_NAMES)
        skipped = (tmp_path / "f.skipped.csv").read_text(errors="surrogateescape")
        assert "empty file" in skipped
        assert skipped.count("empty.mp4") == 1
    invoke("attention", ".", *weights, "--head", "mean", "-o", tmp_path / "a:ttention")
    for name in VIDEO_NAMES:
        capture = open_capture(tmp_path / "a:ttention" / name / "heat_mean.mp4")
        assert [capture.grab() for _ in range(4)] == [True, True, True, False]
    assert capfd.readouterr().err.count("WARN") == 0


def test_results_stay_inside_the_output(strange, tmp_path):
    output = tmp_path / "out"
    words = ("attention", strange / "photos", "--weights", strange / "w.safetensors")
    result = invoke(*words, "--workers", 1, "--head", "mean", "--json", "-o", output)
    assert [p.name for p in tmp_path.iterdir()] == ["out"]
    folders = [Path(row["folder"]) for row in json.loads(result.stdout)["images"]]
    assert len({os.path.realpath(f) for f in folders}) == len(NAMES)
    assert all(output.resolve() in f.resolve().parents for f in folders)


def test_messages_show_no_control_characters(strange, tmp_path):
    """A name cannot colour or move what a terminal shows, nor begin a line of its own."""
    bad = tmp_path / "bad"
    bad.mkdir()
    for name in ("\x1b[31mred.png", "two\ndino: error: lines.png", "bell\x07.png"):
        (bad / name).write_bytes(b"no picture")
    photo(bad / "good.png")
    words = ("embed", bad, "--weights", strange / "w.safetensors", "--workers", 0)
    for more, code in (((), 0), (("--strict",), 1)):
        result = invoke(*words, *more, "-o", tmp_path / "f.npy", code=code)
        assert not re.search(r"[\x07\x1b]", result.output)
        assert (
            result.output.count("dino: error: lines") == 0
            or "\ndino: error: lines" not in result.output
        )


@pytest.mark.slow
def test_things_that_are_no_files(strange, tmp_path):
    """A FIFO, a socket, a folder called like a picture, loops of links: passed over or told."""
    place = tmp_path / "things"
    photo(place / "good.png")
    os.mkfifo(place / "fifo.png")
    (place / "folder.jpg").mkdir()
    (place / "around").symlink_to(place)
    (place / "gone.png").symlink_to("nowhere")
    (place / "empty.png").write_bytes(b"")
    before = Path.cwd()
    os.chdir(place)  # a socket's address is at most 107 bytes
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind("socket.png")
    finally:
        os.chdir(before)
    words = ("--weights", strange / "w.safetensors", "--workers", 0)
    result = invoke("embed", place, *words, "-o", tmp_path / "f.npy", "--json")
    assert json.loads(result.stdout)["count"] == 1
    for name in ("fifo.png", "socket.png", "gone.png", "empty.png", "folder.jpg"):
        result = invoke("embed", place / name, *words, "-o", tmp_path / "g.npy", code=1)
        assert result.stderr.count("dino: error: ") == 1
    assert not (tmp_path / "g.npy").exists()


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium")
def test_no_name_runs_in_a_page(strange, tmp_path):
    weights = ("--weights", strange / "w.safetensors")
    # A folder of that name too: titles and headings take it up.
    photos = tmp_path / HANDLER
    shutil.copytree(strange / "photos", photos)
    invoke("embed", photos, *weights, "--workers", 0, "-o", tmp_path / "f.npy")
    invoke(
        "attention",
        photos,
        *weights,
        "--html",
        "--workers",
        1,
        "--head",
        "mean",
        "-o",
        tmp_path / "a",
    )
    invoke("pca", photos, *weights, "--html", "--workers", 1, "-o", tmp_path / "p")
    invoke(
        "knn", photos, "--index", tmp_path / "f.npy", "--neighbors", 3,
        "--workers", 0, "-o", tmp_path / "hits.html",
    )  # fmt: skip
    pages = [tmp_path / "a" / "index.html", tmp_path / "p" / "index.html", tmp_path / "hits.html"]
    for page in pages:
        text = page.read_text(errors="replace")
        assert "<script>document" not in text
        assert "<img src=x" not in text
        assert title_of(page, tmp_path / "profile") != "ran"
    # That the check would see it:
    (tmp_path / "ran.html").write_text(f"<title>still</title>{HANDLER}")
    assert title_of(tmp_path / "ran.html", tmp_path / "profile") == "ran"

"""Many inputs of `dino attention`: their order and names, and what is told of those left out."""

import json

import numpy as np
import pytest
from in_process import dino
from page_reader import Page
from PIL import Image
from small_vit import files_in, photo

from dino_cli.tasks.photos import reading, results


def test_inputs_keep_their_order_whatever_is_done_first(attention, tmp_path, monkeypatch):
    """Photos of one size are looked at together, so the later ones of it come early."""
    monkeypatch.setattr(results, "MOST_CARDS", 4)
    sizes = [(70, 50), (50, 70), (70, 50), (50, 70), (70, 50)]
    for i, size in enumerate(sizes):
        photo(tmp_path / "in" / f"{i}.png", size, seed=i)
    (tmp_path / "in/5.png").write_bytes(b"-")
    told = json.loads(
        attention("in", "--head", "mean", "--batch-size", 3, "--html", "--json").stdout
    )
    assert [row["input"] for row in told["images"]] == [f"in/{i}.png" for i in range(5)]
    assert [row["size"] for row in told["images"]] == [[*size[::-1]] for size in sizes]
    page = Page(tmp_path / "attention/index.html")
    assert [word for word in page.words.split() if word.endswith(".png")] == [
        f"{i}.png" for i in range(4)
    ]
    shown = zip(page.pictures("the photo"), range(4), strict=True)
    assert all(np.abs(one - Image.open(f"in/{i}.png")).mean() < 20 for one, i in shown)
    assert "5 inputs, attention masks" in page.words
    assert "Shown here: the first 4." in page.words


@pytest.mark.slow
def test_no_folder_has_the_name_of_a_shared_file(attention, tmp_path):
    names = ["coco.json", "index.html", "skipped.csv"]
    for name in names:
        photo(tmp_path / "in" / f"{name}.png")
    options = ["--format", "pictures,coco", "--html", "--head", "mean", "--json"]
    rows = json.loads(attention("in", *options).stdout)["images"]
    folders = {row["folder"].removeprefix("attention/") for row in rows}
    assert len(folders) == 3
    assert not folders & set(names)
    assert files_in(tmp_path / "attention") == {"coco.json", "index.html", *folders}


@pytest.mark.slow
def test_results_of_every_kind_of_mask_can_be_replaced(attention, tmp_path):
    photo(tmp_path / "cat.png")
    for masks in ("seeded", "tokens", "cut", "attention"):
        options = ["--masks", masks, "--head", "mean", "--instances", "--overwrite"]
        attention("cat.png", *options)
        name = "mean" if masks == "attention" else masks
        assert files_in(tmp_path / "attention/cat") == {
            "attention.npy", "grid.png", "heat_mean.png",
            *(f"{kind}_{name}.png" for kind in ("mask", "overlay", "instances")),
        }  # fmt: skip


def test_frames_are_turned_and_named_as_asked(attention, tmp_path):
    tag = Image.Exif()
    tag[0x0112] = 6
    path = photo(tmp_path / "in/a/walk/0.png")
    Image.open(path).save(path.with_suffix(".jpg"), exif=tag)
    path.unlink()
    options = ["in", "--fps", 5, "--head", "mean", "--format", "pictures", "--json"]
    (row,) = json.loads(attention(*options).stdout)["images"]
    assert (row["folder"], row["size"]) == ("attention/a/walk", [70, 50])
    (row,) = json.loads(attention(*options, "--no-exif", "-o", "raw").stdout)["images"]
    assert (row["folder"], row["size"]) == ("raw/a/walk", [50, 70])


@pytest.mark.parametrize(
    ("options", "why"),
    [([], "unreadable and skipped"), (["--query", "80,10"], "skipped")],
)
def test_a_remark_says_how_many_were_skipped(
    small_vit_weights, tmp_path, monkeypatch, options, why
):
    monkeypatch.chdir(tmp_path)
    photo(tmp_path / "in/a.png", (90, 60))
    photo(tmp_path / "in/b.png")
    if not options:
        (tmp_path / "in/b.png").write_bytes(b"-")
    line = ["attention", "in", *options, "--head", "mean", "--device", "cpu"]
    told = dino(*line, "--weights", small_vit_weights).stderr
    assert f" 1 file was {why}; see attention/skipped.csv" in " ".join(told.split())


def test_a_photo_too_large_for_the_memory_is_skipped(attention, tmp_path, monkeypatch):
    photo(tmp_path / "in/a.png")
    photo(tmp_path / "in/b.png")
    read = reading.read_input

    def scarce(path, *more):
        if path.name == "b.png":
            raise MemoryError
        return read(path, *more)

    monkeypatch.setattr(reading, "read_input", scarce)
    attention("in", "--head", "mean")
    listed = (tmp_path / "attention/skipped.csv").read_text()
    assert "in/b.png,not enough memory for it" in listed


def test_a_failure_keeps_the_shared_files_of_before(attention, tmp_path, monkeypatch):
    photo(tmp_path / "cat.png")
    options = ["--format", "coco", "--head", "mean"]
    attention("cat.png", *options)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(results, "write_page", full)
    photo(tmp_path / "dog.png")
    said = attention("dog.png", *options, "--html", "--overwrite", code=1).stderr
    assert "No space left" in said
    assert files_in(tmp_path / "attention") == {"coco.json"}

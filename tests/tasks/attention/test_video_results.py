"""What is told of videos: rows, COCO files, the page, one best head; and after an interruption."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from in_process import dino
from page_reader import Page
from PIL import Image
from small_vit import files_in, photo, video

from dino_cli.data.decoding.video import open_video
from dino_cli.store.pictures.videos import NO_H264
from dino_cli.tasks.attention import look, run, videos


def _frames(path):
    return list(open_video(Path(path)))


def _coco(folder="attention"):
    with open(f"{folder}/coco.json") as file:
        return json.load(file)


def test_coco_tells_the_size_and_the_rate_of_each_video(attention, tmp_path):
    """Videos of unequal size among a photo and one that cannot be looked at."""
    photo(tmp_path / "in" / "z.png", (60, 90))
    video(tmp_path / "in" / "clip.mp4", frames=4)
    video(tmp_path / "in" / "strip.mp4", frames=2, size=(4000, 2))
    video(tmp_path / "in" / "tall.mp4", frames=3, size=(48, 64), fps=5.0)
    told = attention("in", "--format", "coco,pictures", "--head", "0", "--json").stdout
    read, rows = _coco(), json.loads(told)["images"]
    assert read["videos"] == [
        {"id": 1, "name": "clip.mp4", "height": 50, "width": 70, "fps": 10.0},
        {"id": 2, "name": "tall.mp4", "height": 64, "width": 48, "fps": 5.0},
    ]
    photographed, *frames = read["images"]
    assert photographed == {"id": 1, "file_name": "z.png", "height": 90, "width": 60}
    assert frames == [
        {"id": 2 + i, "file_name": f"{name}/{at:06d}.jpg", "height": height, "width": width,
         "video_id": video_id, "frame_index": at}
        for i, (video_id, name, height, width, at) in enumerate(
            [(1, "clip.mp4", 50, 70, at) for at in range(4)]
            + [(2, "tall.mp4", 64, 48, at) for at in range(3)]
        )
    ]  # fmt: skip
    assert [(row["input"], row["folder"], row["size"], row.get("frames")) for row in rows] == [
        ("in/z.png", "attention/z", [90, 60], None),
        ("in/clip.mp4", "attention/clip", [50, 70], 4),
        ("in/tall.mp4", "attention/tall", [64, 48], 3),
    ]
    masks = _frames("attention/tall/mask_head0.mp4")
    for at, mask in enumerate(masks):
        (one,) = (a for a in read["annotations"] if a["image_id"] == 6 + at)
        assert (mask.mean(-1) > 128).sum() == pytest.approx(one["area"], rel=0.1)


@pytest.fixture
def slopes(tmp_path):
    """Three pictures in in/ of two kinds, whose best heads differ."""
    y, x = np.mgrid[:60, :90]
    along = np.stack([x * 2.8, y * 4, x + y], -1)
    across = np.stack([y * 4.2, 255 - x * 2.8, 0 * x], -1)
    (tmp_path / "in").mkdir()
    for i, pixels in enumerate((along, across, along)):
        Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / "in" / f"{i}.png")


@pytest.mark.usefixtures("slopes")
def test_the_best_head_of_a_video_fits_all_frames_so_far(attention):
    """A choice of each frame's own would flicker."""
    grey = ["--palette", "grey"]  # unlike the mark of the best head
    attention("in", "--format", "coco,pictures", *grey, "-o", "p")
    scores = np.array([one["score"] for one in _coco("p")["annotations"]]).reshape(3, 3)
    best = scores.cumsum(0).argmax(1)
    assert best[-1] != scores[-1].argmax()
    assert len(set(best)) == 2
    options = ["--fps", 5, "--head", "best,mean", "--batch-size", 2, "--html", "--json", *grey]
    (row,) = json.loads(attention("in", *options).stdout)["images"]
    assert row["best_head"] == best[-1]
    words = Page(Path("attention/index.html")).words
    assert [int(head) for head in re.findall("head ([0-9]), best", words)] == [*best]
    for i, mask in enumerate(_frames("attention/in/mask_best.mp4")):
        masks = [np.asarray(Image.open(f"p/{i}/mask_head{head}.png")) for head in range(3)]
        away = [np.abs(mask.mean(-1) - one).mean() for one in masks]
        assert np.argmin(away) == best[i]
    for i, grid in enumerate(_frames("attention/in/grid.mp4")):
        still = np.asarray(Image.open(f"p/{i}/grid.png")).astype(int)
        moved = grid[: still.shape[0], : still.shape[1]]
        here, there = (np.abs(one - (200, 90, 0)).max(-1) < 60 for one in (moved, still))
        # A photo's own best head is the one that is marked on its grid.
        same = (here & there).sum() > there.sum() / 2
        assert same == (best[i] == scores[i].argmax())


@pytest.mark.usefixtures("slopes")
def test_the_score_of_a_video_is_the_mean_of_its_frames(attention, monkeypatch):
    options = ["--masks", "seeded", "--instances", "--json"]
    rows = json.loads(attention("in", *options, "-o", "p").stdout)["images"]
    scores = [row["score"] for row in rows]
    mean = sum(scores) / 3
    # Between the video's score and that of its last frame
    monkeypatch.setitem(look.GUESS_BELOW, "seeded", (mean + scores[-1]) / 2)
    (row,) = json.loads(attention("in", *options, "--fps", 5).stdout)["images"]
    assert row["score"] == pytest.approx(mean, abs=2e-4) != pytest.approx(scores[-1], abs=2e-4)
    assert row["guess"] is bool(mean < scores[-1])
    assert "instances" not in row  # which would be those of one frame
    kinds = {"heat_head0", "heat_head1", "heat_head2", "mask_seeded", "overlay_seeded", "grid"}
    assert files_in(Path("attention/in")) == {f"{kind}.mp4" for kind in kinds}


def test_frames_on_the_page_are_evenly_apart_whatever_the_batches(attention, tmp_path):
    video(tmp_path / "clip.mp4", frames=13)
    attention("clip.mp4", "--html", "--head", "mean", "--format", "coco", "--batch-size", 11)
    page = (tmp_path / "attention/index.html").read_text()
    times = re.findall(r"<figcaption>(\S+) s</figcaption>", page)
    assert times == ["0.0", "0.2", "0.4", "0.6", "0.8", "1.0", "1.2"]


def _interrupted(monkeypatch, at):
    """Ctrl-C when frames are looked at for the nth time."""
    calls, look_at = [], videos.look_at

    def interrupted(*arguments):
        calls.append(0)
        if len(calls) == at:
            raise KeyboardInterrupt
        return look_at(*arguments)

    monkeypatch.setattr(videos, "look_at", interrupted)


def test_what_an_interruption_leaves_is_listed_and_shown(small_vit_weights, tmp_path, monkeypatch):
    """--strict is for what is whole: nobody asked for the other frames any more."""
    monkeypatch.chdir(tmp_path)
    for i in range(8):
        photo(tmp_path / "in" / f"{i}.png", seed=i)
    (tmp_path / "in/1.png").write_bytes(b"-")
    _interrupted(monkeypatch, 3)
    line = ["attention", "in", "--fps", 5, "--strict", "--batch-size", 2, "--head", "mean"]
    line += ["--format", "pictures,coco", "--html", "--device", "cpu", "--precision", "fp32"]
    told = dino(*line, "--weights", small_vit_weights, code=130).stderr
    assert "1 of 1 inputs are done and kept in 'attention'" in told
    assert "frames, but only" not in told
    assert len(_frames(tmp_path / "attention/in/mask_mean.mp4")) == 4
    assert "in/1.png," in (tmp_path / "attention/skipped.csv").read_text()
    read = _coco()
    assert [image["frame_index"] for image in read["images"]] == [0, 1, 2, 3]
    assert len(read["videos"]) == 1
    assert "4 frames" in Page(tmp_path / "attention/index.html").words


@pytest.mark.parametrize("before", [0, 1])
def test_a_video_interrupted_before_its_first_frame_is_not_there(
    attention, tmp_path, monkeypatch, before
):
    clips = [video(tmp_path / f"{n}.mp4", frames=2) for n in range(before + 1)]
    _interrupted(monkeypatch, before + 1)
    told = attention(*clips, "--head", "mean", "--format", "pictures,coco", code=130).stderr
    assert f"{before} of {before + 1} inputs are done" in told
    if not before:
        assert not (tmp_path / "attention").exists()
        return
    assert files_in(tmp_path / "attention") == {"0", "coco.json"}
    assert [one["id"] for one in _coco()["videos"]] == [1]


@pytest.mark.parametrize("kind", ["pictures", "coco"])
def test_videos_that_browsers_do_not_play_are_told_of(
    small_vit_weights, tmp_path, monkeypatch, kind
):
    from dino_cli.store.pictures import videos as store

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(store, "h264_program", lambda: None)
    monkeypatch.setattr(run, "h264_program", lambda: None)
    video(tmp_path / "clip.mp4", frames=1)
    line = ["attention", "clip.mp4", "--format", kind, "--head", "mean", "--device", "cpu"]
    told = dino(*line, "--weights", small_vit_weights).stderr
    assert (NO_H264 in " ".join(told.split())) is (kind == "pictures")

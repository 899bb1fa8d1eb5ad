"""`dino attention` on videos and on pictures that stand for frames, through the command line."""

import json
import re

import cv2
import numpy as np
import pytest
from browser import CHROMIUM, title_of
from PIL import Image
from small_vit import disc, photo, video

from dino_cli.data.decoding.video import open_video
from dino_cli.store.pictures import videos


@pytest.fixture(params=["h264", "mp4v"])
def encoder(request, monkeypatch):
    """Both ways of writing videos, where FFmpeg is there."""
    if request.param == "mp4v":
        from dino_cli.tasks.attention import run as task

        monkeypatch.setattr(videos, "h264_program", lambda: None)
        monkeypatch.setattr(task, "h264_program", lambda: None)
    elif videos.h264_program() is None:
        pytest.skip("no FFmpeg with libx264")


def _frames(path):
    return list(open_video(path))


def _exact(path, frames=10):
    """A video that keeps every pixel, so that its frames equal pictures."""
    code = cv2.VideoWriter.fourcc(*"FFV1")
    writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, code, 10.0, (70, 50))
    for i in range(frames):
        writer.write(np.ascontiguousarray(disc(seed=i, at=(0.2 + 0.06 * i, 0.5))[..., ::-1]))
    writer.release()
    return path


@pytest.mark.usefixtures("encoder")
def test_frames_are_what_photos_would_be(attention, tmp_path):
    _exact(tmp_path / "clip.avi")
    for i, frame in enumerate(_frames(tmp_path / "clip.avi")):
        (tmp_path / "in").mkdir(exist_ok=True)
        Image.fromarray(frame).save(tmp_path / "in" / f"{i}.png")
    options = ["--head", "mean", "--masks", "seeded", "--refine", "guided"]
    told = attention("clip.avi", *options, "--batch-size", 3, "-o", "v", "--json").stdout
    row = json.loads(told)["images"][0]
    attention("in", *options, "-o", "p")
    assert (row["frames"], row["fps"], row["size"]) == (10, 10.0, [50, 70])
    names = {path.name for path in (tmp_path / "v" / "clip").iterdir()}
    kinds = ["heat_mean", "mask_seeded", "overlay_seeded", "grid"]
    assert names == {f"{kind}.mp4" for kind in kinds}
    for kind in kinds:
        seen = _frames(tmp_path / "v" / "clip" / f"{kind}.mp4")
        assert len(seen) == 10
        for i, frame in enumerate(seen):
            still = np.asarray(Image.open(tmp_path / f"p/{i}/{kind}.png").convert("RGB"))
            part = frame[: still.shape[0], : still.shape[1]]
            assert np.abs(part.astype(int) - still).mean() < 25, (kind, i)
    masks = [f[:50, :70].mean(-1) > 128 for f in _frames(tmp_path / "v/clip/mask_seeded.mp4")]
    still = [np.asarray(Image.open(tmp_path / f"p/{i}/mask_seeded.png")) > 0 for i in range(10)]
    assert np.mean(np.array(masks) == np.array(still)) > 0.95


def test_pictures_of_a_folder_become_a_video(attention, tmp_path):
    for i in range(6):
        photo(tmp_path / "in" / "a" / f"{i}.png", seed=i)
        photo(tmp_path / "in" / "b" / f"{i}.png", (40, 60), seed=i)
    rows = json.loads(attention("in", "--fps", 5, "--head", "best", "--json").stdout)["images"]
    assert [(r["input"], r["frames"], r["fps"]) for r in rows] == [
        ("in/a", 6, 5.0),
        ("in/b", 6, 5.0),
    ]
    assert _frames(tmp_path / "attention/b/overlay_best.mp4")[0].shape == (60, 40, 3)


def test_frames_of_a_folder_that_cannot_be_read_are_listed(attention, tmp_path):
    for i in range(4):
        photo(tmp_path / "in" / f"{i}.png", seed=i)
    (tmp_path / "in/2.png").write_bytes(b"-")
    line = ["in", "--fps", 5, "--head", "mean", "--batch-size", 2, "--json"]
    told = json.loads(attention(*line).stdout)
    assert (told["images"][0]["frames"], told["skipped"]) == (3, 1)
    assert told["skipped_list"] == "attention/skipped.csv"
    header, row = (tmp_path / "attention/skipped.csv").read_text().splitlines()
    assert header == "path,reason"
    assert row.startswith("in/2.png,")
    assert "cannot read 'in/2.png'" in attention(*line, "--strict", "-o", "x", code=1).stderr
    photo(tmp_path / "in/2.png")
    assert json.loads(attention(*line, "--overwrite").stdout)["images"][0]["frames"] == 4
    assert not (tmp_path / "attention/skipped.csv").exists()


def test_fps_leaves_frames_out(attention, tmp_path):
    video(tmp_path / "clip.mp4", frames=12, fps=12)
    told = attention("clip.mp4", "--fps", 4, "--head", "mean", "--json").stdout
    row = json.loads(told)["images"][0]
    assert (row["frames"], row["fps"]) == (4, 4.0)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_coco_of_frames(attention, tmp_path, capsys):
    coco = pytest.importorskip("pycocotools.coco")
    photo(tmp_path / "in" / "z.png")
    video(tmp_path / "in" / "clip.mp4")
    attention("in", "--format", "coco", "--masks", "cut", "--instances")
    assert [path.name for path in (tmp_path / "attention").iterdir()] == ["coco.json"]
    read = coco.COCO("attention/coco.json")
    capsys.readouterr()
    images = [read.imgs[i] for i in sorted(read.imgs)]
    assert [image["file_name"] for image in images] == [
        "z.png", *(f"clip.mp4/{i:06d}.jpg" for i in range(10)),
    ]  # fmt: skip
    assert [image["frame_index"] for image in images[1:]] == list(range(10))
    assert read.dataset["videos"][0]["name"] == "clip.mp4"
    assert {one["image_id"] for one in read.anns.values()} == set(range(1, 12))


def test_page_shows_some_frames(attention, tmp_path):
    video(tmp_path / "clip.mp4", frames=40)
    attention("clip.mp4", "--html", "--head", "mean")
    page = (tmp_path / "attention/index.html").read_text()
    assert "40 frames" in page
    assert 4 <= page.count('alt="the photo"') <= 8


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium")
def test_frames_on_the_page_keep_apart(attention, tmp_path):
    video(tmp_path / "clip.mp4", frames=40)
    attention("clip.mp4", "--html", "--head", "mean")
    page = tmp_path / "attention/index.html"
    text = re.sub(r'<meta http-equiv="Content-Security-Policy".*?>', "", page.read_text())
    gaps = """<script>document.title = [...document.querySelectorAll(".pair ~ .pair")].map(
        one => one.getBoundingClientRect().top
            - one.previousElementSibling.getBoundingClientRect().bottom)</script></body>"""
    page.write_text(text.replace("</body>", gaps))
    found = [float(gap) for gap in title_of(page, tmp_path / "profile").split(",")]
    assert len(found) >= 3
    assert min(found) >= 10  # pixels


@pytest.mark.parametrize("good", [True, False])
def test_what_is_no_video_is_skipped(attention, tmp_path, good):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.mp4").write_bytes(b"no video")
    if good:
        video(tmp_path / "in" / "b.mp4")
    result = attention("in", "--json", "--head", "mean", code=0 if good else 1)
    if good:
        assert json.loads(result.stdout)["skipped"] == 1
        assert {p.name for p in (tmp_path / "attention").iterdir()} == {"b", "skipped.csv"}
    else:
        assert "a.mp4" in result.stderr
        assert not (tmp_path / "attention").exists()


def test_interruption_keeps_a_shorter_video(attention, tmp_path, monkeypatch):
    from dino_cli.tasks.attention import videos as task

    calls = []

    def interrupted(*arguments):
        calls.append(0)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return look_at(*arguments)

    look_at = task.look_at
    monkeypatch.setattr(task, "look_at", interrupted)
    video(tmp_path / "clip.mp4", frames=20)
    result = attention("clip.mp4", "--batch-size", 2, "--head", "mean", code=130)
    assert "interrupted" in result.stderr
    assert len(_frames(tmp_path / "attention/clip/overlay_mean.mp4")) == 6
    assert not any(p.name.startswith(".") for p in (tmp_path / "attention").iterdir())


def test_failure_within_a_video_leaves_nothing(attention, tmp_path, monkeypatch):
    from dino_cli.tasks.attention import videos as task

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(task, "draw", full)
    video(tmp_path / "clip.mp4")
    assert "No space left" in attention("clip.mp4", code=1).stderr
    assert not (tmp_path / "attention").exists()


def test_a_point_outside_the_frames(attention, tmp_path):
    video(tmp_path / "clip.mp4")
    assert "lies outside 70 x 50" in attention("clip.mp4", "--query", "90,3", code=2).stderr
    attention("clip.mp4", "--query", "35,25", "--head", "mean")

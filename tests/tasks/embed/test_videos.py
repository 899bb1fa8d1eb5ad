"""`dino embed` on videos: a row for each frame, the same as of a picture of it."""

import csv
import json
import os
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from interruptions import interrupt_after
from PIL import Image
from small_vit import disc
from typer.testing import CliRunner, Result

from dino_cli.cli.app import app
from dino_cli.data.decoding.decode import UnreadableImage, read_image
from dino_cli.data.decoding.video import open_video
from dino_cli.data.listing.contents import content_sha256, path_on_disk
from dino_cli.store.embeddings.reading import read_embeddings


def exact(path: Path, frames: int = 10, seed: int = 0) -> Path:
    """A video that keeps every pixel, ten frames a second."""
    path.parent.mkdir(parents=True, exist_ok=True)
    code = cv2.VideoWriter.fourcc(*"FFV1")
    writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, code, 10.0, (70, 50))
    for i in range(frames):
        picture = disc(seed=seed + i, at=(0.2 + 0.06 * i, 0.5))
        writer.write(np.ascontiguousarray(picture[..., ::-1]))
    writer.release()
    return path


@pytest.fixture
def run(tiny_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.chdir(tmp_path)
    fixed = ["--weights", str(tiny_weights), "--device", "cpu", "--precision", "fp32"]
    fixed += ["--resize", "48", "--crop", "48", "--quiet", "--batch-size", "2", "--json"]

    def embed(*arguments: str, code: int = 0, workers: int = 0) -> Result:
        line = ["embed", *arguments, *fixed, "--workers", str(workers)]
        result = CliRunner().invoke(app, line)
        assert result.exit_code == code, result.output
        assert "Traceback" not in result.output
        return result

    return embed


@pytest.mark.parametrize("suffix", ["npy", "npz", "safetensors", "parquet", "csv"])
def test_rows_are_those_of_pictures_of_the_frames(run: Any, tmp_path: Path, suffix: str) -> None:
    if suffix == "parquet":
        pytest.importorskip("pyarrow")
    exact(tmp_path / "clip.avi")
    (tmp_path / "stills").mkdir()
    for i, frame in enumerate(open_video(tmp_path / "clip.avi")):
        Image.fromarray(frame).save(tmp_path / "stills" / f"{i}.png")
    run("clip.avi", "stills/3.png", "-o", f"f.{suffix}")
    run("stills", "-o", "s.npy")
    found, expected = read_embeddings(Path(f"f.{suffix}")), np.load("s.npy")
    assert [os.path.basename(path) for path in found.paths] == [
        "3.png", *(f"clip.avi#frame={i}" for i in range(10)),
    ]  # fmt: skip
    np.testing.assert_allclose(found.features[0:11], expected[[3, *range(10)]], atol=1e-6)
    assert list(found.metadata["videos"].values()) == [10.0]
    if suffix == "parquet":
        import pyarrow.parquet as pq

        table = pq.read_table("f.parquet").to_pylist()
        rows = [(row["frame"], row["time"]) for row in table]
        assert rows == [(None, None), *((i, i / 10) for i in range(10))]
    elif suffix != "npz":
        with Path("f.csv").open() as file:
            rows = [(row["frame"], row["time"]) for row in csv.DictReader(file)]
        assert rows == [("", ""), *((str(i), str(i / 10)) for i in range(10))]


def test_some_frames_of_each_second_and_the_class_folder(run: Any, tmp_path: Path) -> None:
    exact(tmp_path / "in" / "walk" / "a.avi")
    exact(tmp_path / "in" / "run" / "b.avi", 4, seed=20)
    run("in", "--fps", "2.5", "-o", "f.npy")
    found = read_embeddings(Path("f.npy"))
    names = ["in/run/b.avi#frame=0", *(f"in/walk/a.avi#frame={i}" for i in (0, 4, 8))]
    assert (found.paths, found.labels) == (names, ["run", "walk", "walk", "walk"])
    assert not any(name.startswith("5") for name in os.listdir())
    run("in", "--fps", "0", "-o", "g.npy", code=2)


def test_frames_do_not_depend_on_workers(run: Any, tmp_path: Path) -> None:
    exact(tmp_path / "a.avi", 9)
    exact(tmp_path / "b.avi", 5, seed=30)
    run("a.avi", "b.avi", "-o", "one.npy")
    run("a.avi", "b.avi", "-o", "two.npy", workers=2)
    assert Path("one.npy").read_bytes() == Path("two.npy").read_bytes()
    assert Path("one.npy.sources").read_bytes() == Path("two.npy.sources").read_bytes()


def test_resume_and_append(run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    exact(tmp_path / "a.avi", 9)
    run("a.avi", "-o", "whole.npy")
    with monkeypatch.context() as patch:
        interrupt_after(2, patch)
        assert "--resume" in run("a.avi", "-o", "f.npy", code=130).stderr
    assert json.loads(run("a.avi", "-o", "f.npy", "--resume").stdout)["embedded"] == 5
    for end in ("npy", "csv", "npy.sources"):
        assert Path(f"f.{end}").read_bytes() == Path(f"whole.{end}").read_bytes()

    run("a.avi", "--fps", "5", "-o", "g.npy")
    assert json.loads(run("a.avi", "-o", "g.npy", "--append").stdout)["embedded"] == 4
    exact(tmp_path / "b.avi", 2, seed=40)
    more = json.loads(run("b.avi", "-o", "g.npy", "--append").stdout)
    assert (more["embedded"], more["count"]) == (2, 11)
    assert list(read_embeddings(Path("g.npy")).metadata["videos"]) == ["a.avi", "b.avi"]


def test_what_is_no_video_is_skipped_and_named(run: Any, tmp_path: Path) -> None:
    exact(tmp_path / "a.avi", 3)
    (tmp_path / "b.mp4").write_bytes(b"no video")
    result = json.loads(run("a.avi", "b.mp4", "-o", "f.npy").stdout)
    assert (result["count"], result["skipped"]) == (3, 1)
    assert Path("f.skipped.csv").read_text().splitlines()[1] == (
        "b.mp4#frame=0,not a video that OpenCV's FFmpeg knows"
    )
    run("b.mp4", "-o", "g.npy", code=1)
    assert not Path("g.npy").exists()


def test_a_frame_is_a_picture_by_its_name(tmp_path: Path) -> None:
    video = exact(tmp_path / "a.avi", 6)
    frames = list(open_video(video))
    for number in (4, 0, 5, 1, 1):
        path = Path(f"{video}#frame={number}")
        np.testing.assert_array_equal(np.asarray(read_image(path)), frames[number])
    with pytest.raises(UnreadableImage, match="ends before"):
        read_image(Path(f"{video}#frame=6"))
    with pytest.raises(UnreadableImage, match="no such file"):
        read_image(tmp_path / "none.avi#frame=0")
    with pytest.raises(UnreadableImage, match="take apart into frames"):
        read_image(video)
    Image.fromarray(frames[0]).save(tmp_path / "x.png")
    odd = (tmp_path / "x.png").rename(tmp_path / "a.avi#frame=3")
    np.testing.assert_array_equal(np.asarray(read_image(odd)), frames[0])  # a file of that name


def test_contents_of_frames_differ_and_follow_the_video(tmp_path: Path) -> None:
    video = exact(tmp_path / "a.avi", 2)
    names = [Path(f"{video}#frame={i}") for i in range(2)]
    first, second = map(content_sha256, names)
    assert first != second
    assert path_on_disk(names[1]) == video
    copy = tmp_path / "copy.avi"
    copy.write_bytes(video.read_bytes())
    assert content_sha256(Path(f"{copy}#frame=1")) == second
    exact(video, 2, seed=9)
    assert content_sha256(names[1]) != second


def test_pictures_in_shards_have_contents_too(run: Any, photos: Path) -> None:
    import tarfile

    with tarfile.open("s.tar", "w") as tar:
        for file in sorted(photos.glob("*/0.png")):
            tar.add(file, f"{file.parent.name}/0.png")
    run("s.tar", "-o", "f.npy")
    told = [line.split("  ") for line in Path("f.npy.sources").read_text().splitlines()]
    assert [name for _, name in told] == [f"s.tar/{c}/0.png" for c in ("blue", "green", "red")]
    assert [digest for digest, _ in told] == [
        content_sha256(file) for file in sorted(photos.glob("*/0.png"))
    ]
    assert json.loads(run("s.tar", "-o", "f.npy", "--append").stdout)["embedded"] == 0


def test_frames_as_queries_of_knn(run: Any, tiny_weights: Path, tmp_path: Path) -> None:
    """Each is a picture: against an index of the same frames each finds itself."""
    for i, name in enumerate(("left", "right")):
        exact(tmp_path / "clips" / name / "clip.avi", seed=20 * i)
    run("clips", "-o", "index.npy")
    words = ["knn", "clips/right/clip.avi", "--index", "index.npy", "--weights", str(tiny_weights)]
    words += ["-k", "1", "--neighbors", "1", "--device", "cpu", "--quiet", "--workers", "0"]
    result = CliRunner().invoke(app, [*words, "--fps", "5", "-o", "found.csv"])
    assert result.exit_code == 0, result.output
    with (tmp_path / "found.csv").open() as lines:
        rows = list(csv.DictReader(lines))
    frames = [f"clips/right/clip.avi#frame={i}" for i in range(0, 10, 2)]
    assert [row["path"] for row in rows] == frames
    assert [row["predicted"] for row in rows] == ["right"] * 5
    assert all(row["path"] == row["neighbor1"] for row in rows)
    result = CliRunner().invoke(app, [*words, "--fps", "0", "-o", "other.csv"])
    assert result.exit_code == 2
    assert "0 frames per second" in result.stderr

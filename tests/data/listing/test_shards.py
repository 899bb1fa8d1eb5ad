"""WebDataset shards as inputs: found, labelled, read at random, refused."""

import gzip
import io
import json
import shlex
import tarfile

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from dino_cli.cli.app import app
from dino_cli.data.decoding.decode import UnreadableImage, read_image
from dino_cli.data.listing.contents import content_sha256
from dino_cli.data.listing.images import find_images
from dino_cli.errors import TaskError
from dino_cli.store.runs.log import Log


def picture(i, size=40):
    rng = np.random.default_rng(i)
    buffer = io.BytesIO()
    Image.fromarray(rng.integers(0, 255, (size, size, 3), dtype=np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def write_tar(path, members):
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


@pytest.fixture
def shards(tmp_path):
    """shard-000.tar and shard-001.tar: five pictures each, with `.cls` beside them."""
    for s in range(2):
        members = {}
        for i in range(5):
            members[f"{i:04}.png"] = picture(10 * s + i)
            members[f"{i:04}.cls"] = str(i % 2).encode()
        write_tar(tmp_path / f"shard-{s:03}.tar", members)
    return tmp_path


def test_pictures_are_found_labelled_and_read(shards):
    files = find_images([str(shards / "shard-000.tar")])
    assert [f.path.name for f in files] == [f"{i:04}.png" for i in range(5)]
    assert [f.label for f in files] == ["0", "1", "0", "1", "0"]
    for i, file in enumerate(files):
        expected = np.asarray(Image.open(io.BytesIO(picture(i))))
        assert np.array_equal(np.asarray(read_image(file.path)), expected)


@pytest.mark.parametrize("pattern", ["shard-{000..001}.tar", "shard-*.tar", "shard-{000,001}.tar"])
def test_patterns_name_several(shards, pattern):
    assert len(find_images([str(shards / pattern)])) == 10


def test_folders_inside_are_labels_and_hidden_names_are_passed_over(tmp_path):
    tar = write_tar(
        tmp_path / "s.tar",
        {
            "./cat/1.png": picture(1), "dog/2.png": picture(2), ".hidden.png": picture(3),
            "../out.png": picture(4), "note.json": b"{}",
        },
    )  # fmt: skip
    files = find_images([str(tar)])
    found = [(str(f.relative), f.label) for f in files]
    assert found == [("s/cat/1.png", "cat"), ("s/dog/2.png", "dog")]


def test_a_cut_shard_gives_what_is_whole(tmp_path):
    tar = write_tar(tmp_path / "s.tar", {f"{i}.png": picture(i) for i in range(4)})
    tar.write_bytes(tar.read_bytes()[: tar.stat().st_size // 2])
    files = find_images([str(tar)])
    assert 0 < len(files) < 4
    for file in files:
        read_image(file.path)


def test_what_is_no_shard_is_a_sentence(tmp_path):
    whole = write_tar(tmp_path / "s.tar", {"1.png": picture(1)})
    (tmp_path / "s.tar.gz").write_bytes(gzip.compress(whole.read_bytes()))
    (tmp_path / "zip.tar").write_bytes(gzip.compress(whole.read_bytes()))
    (tmp_path / "junk.tar").write_bytes(b"no tar at all" * 100)
    write_tar(tmp_path / "empty.tar", {"a.json": b"{}"})
    for name, said in {
        "s.tar.gz": "is compressed",
        "zip.tar": "is compressed",
        "junk.tar": "not a readable tar",
        "empty.tar": "no pictures in the shard",
        "gone.tar": "does not exist",
    }.items():
        with pytest.raises(TaskError, match=said):
            find_images([str(tmp_path / name)])


def test_a_damaged_picture_in_a_shard_is_told_like_any_other(tmp_path):
    tar = write_tar(tmp_path / "s.tar", {"1.png": picture(1), "2.png": b"no picture"})
    files = find_images([str(tar)])
    with pytest.raises(UnreadableImage):
        read_image(files[1].path)


@pytest.mark.slow
def test_training_on_shards_equals_training_on_their_files(shards, tmp_path):
    """The same pictures in the same order give the same losses, and a resume goes on exactly."""
    folder = tmp_path / "files"
    for s in range(2):
        (folder / f"shard-{s:03}.tar").mkdir(parents=True)
        for i in range(5):
            (folder / f"shard-{s:03}.tar" / f"{i:04}.png").write_bytes(picture(10 * s + i))
    flags = shlex.split("""
        --arch vit_tiny --patch-size 8 --width 32 --depth 1 --heads 1 --out-dim 16 --head-hidden 16
        --head-bottleneck 8 --batch-size 4 --epochs 3 --global-size 16 --local-size 8
        --local-crops-number 1 --device cpu --precision fp32 --workers 0 --log-every 1 --watch 0
    """)

    def train(*words):
        result = CliRunner().invoke(app, ["train", *map(str, words)])
        assert result.exit_code == 0, result.output

    def losses(run):
        return [e["loss"] for e in Log.read(run / "log.jsonl") if "step" in e]

    train(folder, *flags, "-o", tmp_path / "a")
    train(shards / "shard-*.tar", *flags, "-o", tmp_path / "b", "--max-steps", "3")
    train("--resume", tmp_path / "b", "--max-steps", "6", "--workers", "1")
    assert losses(tmp_path / "b") == losses(tmp_path / "a")


def test_embed_names_the_picture_in_its_shard(shards, tmp_path):
    out = tmp_path / "f.npy"
    result = CliRunner().invoke(
        app,
        ["embed", str(shards / "shard-000.tar"), "--model", "dino_demo", "-o", str(out), "--json"],
    )
    assert result.exit_code == 0, result.output
    rows = (tmp_path / "f.csv").read_text().splitlines()
    assert rows[1] == f"{shards / 'shard-000.tar' / '0000.png'},0"
    assert json.loads((tmp_path / "f.json").read_text())["count"] == 5


def test_a_shard_that_is_replaced_while_it_is_read(tmp_path):
    """What is asked of a picture fails as of a file that is gone, whatever stands there now."""
    tar = write_tar(tmp_path / "s.tar", {"a.png": picture(0)})
    (file,) = find_images([str(tar)])
    assert len(content_sha256(file.path)) == 64
    for content in (b"<html>", tar.read_bytes()[:600], b""):
        tar.write_bytes(content)
        with pytest.raises(OSError, match=r"tar|shard|picture"):
            content_sha256(file.path)
        with pytest.raises(UnreadableImage):
            read_image(file.path)


def test_pictures_that_were_named_before_leave_the_labels_of_the_others(shards):
    (shards / "some.txt").write_text("shard-000.tar/0000.png\tmine\nshard-000.tar/0002.png\tmine\n")
    files = find_images([str(shards / "some.txt"), *[str(shards / "shard-000.tar")] * 2])
    found = [(file.path.name, file.label) for file in files]
    assert found[:2] == [("0000.png", "mine"), ("0002.png", "mine")]
    assert found[2:] == [("0001.png", "1"), ("0003.png", "1"), ("0004.png", "0")]


def test_a_shard_that_is_named_twice_is_used_once_and_is_no_class(tmp_path):
    paths = [str(write_tar(tmp_path / f"{s}.tar", {f"{s}.png": picture(1)})) for s in "ab"]
    files = find_images([*paths, *paths])
    assert [file.path.name for file in files] == ["a.png", "b.png"]
    assert [file.label for file in files.labelled()] == ["", ""]

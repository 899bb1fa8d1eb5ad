"""Batches: order, failures, sizes, worker processes."""

import os
import signal
from pathlib import Path, PurePath

import numpy as np
import pytest
import torch
from PIL import Image

from dino_cli.config.shared import Preprocessing
from dino_cli.data import loader, workers
from dino_cli.data.decoding.decode import read_image
from dino_cli.data.listing.image_list import ImageFile
from dino_cli.data.loader import image_batches
from dino_cli.data.preprocess import build_transform
from dino_cli.errors import TaskError, UsageError

SMALL = Preprocessing(resize=20, crop=16)


def pictures(folder: Path, count: int, *, broken: tuple[int, ...] = ()) -> list[ImageFile]:
    files = []
    for i in range(count):
        path = folder / f"{i}.png"
        if i in broken:
            path.write_bytes(b"nothing")
        else:
            noise = np.random.default_rng(i).integers(0, 256, (24 + i, 30, 3), dtype=np.uint8)
            Image.fromarray(noise).save(path)
        files.append(ImageFile(path, "", PurePath(path.name)))
    return files


@pytest.mark.parametrize("workers", [0, 2])
def test_order_content_and_failures(tmp_path: Path, workers: int) -> None:
    files = pictures(tmp_path, 11, broken=(0, 5, 9, 10))
    batches = list(image_batches(files, SMALL, batch_size=3, workers=workers))
    assert [i for b in batches for i in b.indices] == [1, 2, 3, 4, 6, 7, 8]
    failures = [f for b in batches for f in b.failures]
    assert [i for i, _ in failures] == [0, 5, 9, 10]
    assert all("not a picture" in reason for _, reason in failures)
    assert batches[-1].images.shape == (0, 3, 0, 0)  # both files of the last batch failed
    transform = build_transform(SMALL)
    for batch in batches:
        assert batch.images.dtype == torch.uint8
        assert len(batch.images) == len(batch.indices)
        for row, i in zip(batch.images, batch.indices, strict=True):
            expected = torch.from_numpy(transform(read_image(files[i].path)))
            assert torch.equal(row.permute(1, 2, 0), expected)


def test_sizes_that_differ_split_a_batch(tmp_path: Path) -> None:
    files = pictures(tmp_path, 6)  # heights 24 to 29: one trims to 24, two rows of patches of 4
    p = Preprocessing(resize=None, crop=None, multiple=4)
    batches = list(image_batches(files, p, batch_size=6, workers=0))
    assert [(b.indices, tuple(b.images.shape)) for b in batches] == [
        ([0, 1, 2, 3], (4, 3, 24, 28)),
        ([4, 5], (2, 3, 28, 28)),
    ]


def test_preprocessing_failures_are_reported(tmp_path: Path) -> None:
    files = pictures(tmp_path, 1)
    p = Preprocessing(resize=None, crop=None, multiple=64)
    (batch,) = image_batches(files, p, batch_size=1, workers=0)
    assert batch.failures == [(0, "30 x 24 pixels is smaller than one patch of 64")]


def test_a_handful_needs_no_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    real = workers.DataLoader

    def spy(*args: object, **kwargs: object) -> object:
        seen.append(kwargs["num_workers"])
        return real(*args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(workers, "DataLoader", spy)
    monkeypatch.setattr(workers, "available_cores", lambda: 2)
    files = pictures(tmp_path, 5)
    for size in (5, 3, 2):
        list(image_batches(files, SMALL, batch_size=size, workers=8))
    assert seen == [0, 0, 2]


def test_a_killed_worker_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def dies(path: Path, p: Preprocessing) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    monkeypatch.setattr(loader, "read_fitting", dies)
    with pytest.raises(TaskError, match=r"was killed.*--workers"):
        list(image_batches(pictures(tmp_path, 3), SMALL, batch_size=1, workers=1))


def test_workers_leave_ctrl_c_to_the_parent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(path: Path, p: Preprocessing) -> Image.Image:
        os.kill(os.getpid(), signal.SIGINT)
        return Image.new("RGB", (30, 30))

    monkeypatch.setattr(loader, "read_fitting", interrupted)
    batches = list(image_batches(pictures(tmp_path, 3), SMALL, batch_size=1, workers=1))
    assert [b.indices for b in batches] == [[0], [1], [2]]


def test_impossible_numbers(tmp_path: Path) -> None:
    files = pictures(tmp_path, 1)
    with pytest.raises(UsageError, match="batch size 0"):
        image_batches(files, SMALL, batch_size=0, workers=0)
    with pytest.raises(UsageError, match="-1 workers"):
        image_batches(files, SMALL, batch_size=1, workers=-1)

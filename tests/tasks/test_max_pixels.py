"""`--max-pixels`, the guard against files that unpack to fill the memory, in every command."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from in_process import dino
from PIL import Image

LIMIT = 2010  # the pictures of `photos` have 2000, 2009, 2016 and 2021 pixels, by their names
REASON = f"more than {LIMIT} pixels, the limit against malicious files; raise it with --max-pixels"


@pytest.fixture
def network(tiny_weights: Path) -> list[object]:
    return ["--weights", tiny_weights, "--device", "cpu", "--precision", "fp32", "--quiet"]


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_the_limit_is_lowered_and_raised_in_every_process(
    photos: Path,
    tmp_path: Path,
    network: list[object],
    workers: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("dino_cli.data.workers.available_cores", lambda: 2)
    options = [*network, "--workers", workers, "--batch-size", 2, "--json"]
    options += ["--resize", 32, "--crop", 32]  # Pillow applies its limit to crops too

    def count(name: str, *more: object) -> tuple[int, int]:
        result: Any = json.loads(
            dino("embed", photos, "-o", tmp_path / name, *options, *more).stdout
        )
        return result["count"], result["skipped"]

    assert count("a.npy") == (12, 0)
    assert count("b.npy", "--max-pixels", LIMIT) == (6, 6)
    named = (tmp_path / "b.skipped.csv").read_text()
    assert named.count(REASON) == 6
    assert "red/2.png" in named
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", LIMIT)
    assert count("c.npy") == (6, 6)
    assert count("d.npy", "--max-pixels", 3000) == (12, 0)
    assert Image.MAX_IMAGE_PIXELS == LIMIT  # of one command only


def test_every_command_that_reads_pictures_has_the_option(
    photos: Path, tmp_path: Path, network: list[object], small: Path
) -> None:
    small_enough, too_large = photos / "red/0.png", photos / "red/3.png"
    dino("embed", photos, "-o", tmp_path / "f.npy", *network)
    at = ["--max-pixels", LIMIT]
    knn = dino(
        "knn", small_enough, too_large, "--index", tmp_path / "f.npy", "-o", tmp_path / "p.csv",
        "-k", 3, "--quiet", *at,
    )  # fmt: skip
    assert knn.exit_code == 0
    assert REASON in (tmp_path / "p.skipped.csv").read_text()
    for command in ("attention", "pca"):
        dino(command, small_enough, too_large, "-o", tmp_path / command, *network, *at)
        assert REASON in (tmp_path / command / "skipped.csv").read_text()
    for command in (
        ["eval", "knn", photos, photos, *network, "-o", tmp_path / "report"],
        ["eval", "retrieval", photos, *network],
        ["eval", "linear", photos, photos, "--fast", *network],
        ["train", photos, "--config", small, "-o", tmp_path / "run"],
        ["map", tmp_path / "f.npy", "-o", tmp_path / "map.png"],
    ):
        assert (
            "--max-pixels 0 is not a positive number"
            in dino(*command, "--max-pixels", 0, code=2).stderr
        )
    train = ["train", photos, "--config", small, "--max-pixels", 5, "-o", tmp_path / "run"]
    assert "more than 5 pixels" in dino(*train, code=1).stderr


def test_label_maps_and_arrays_tell_the_option_too(tmp_path: Path, network: list[object]) -> None:
    from dino_cli.data.decoding.arrays import read_npy
    from dino_cli.data.decoding.decode import UnreadableImage
    from dino_cli.data.decoding.labelmaps import read_label_map
    from dino_cli.data.decoding.pixel_limit import pixel_limit

    Image.new("L", (40, 40)).save(tmp_path / "labels.png")
    np.save(tmp_path / "array.npy", np.zeros((40, 40)))
    with pixel_limit(1599):
        with pytest.raises(UnreadableImage, match=r"more than 1599 pixels.*--max-pixels"):
            read_label_map(tmp_path / "labels.png")
        with pytest.raises(ValueError, match=r"more than 1599 pixels.*--max-pixels"):
            read_npy(tmp_path / "array.npy")

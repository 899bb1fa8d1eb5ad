"""A tiny network and tiny pictures, so that commands run whole in a second."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from small_run import small_config
from small_vit import invoke, write_small_vit
from typer.testing import Result

from dino_cli.core.network.architecture import VitArchitecture
from dino_cli.core.network.vit import build_vit
from dino_cli.progress import Reporter
from dino_cli.tasks.demo.draw import draw_folder

COLOURS = {"blue": (30, 60, 200), "green": (40, 170, 60), "red": (210, 50, 40)}


def write_weights(path: Path, seed: int = 0) -> Path:
    """A backbone of 64 channels, 2 blocks, patches of 16, under the original's names."""
    architecture = VitArchitecture(width=64, depth=2, heads=1, patch_size=16, grid=(14, 14))
    torch.manual_seed(seed)
    net = build_vit(architecture)
    # Trained weights are larger than initial ones; so small, every picture would look the same.
    tensors = {
        name: value * (8 if value.ndim > 1 else 1) for name, value in net.state_dict().items()
    }
    save_file(tensors, path)
    return path


@pytest.fixture(scope="session")
def make_weights() -> Callable[..., Path]:
    return write_weights


@pytest.fixture(scope="session")
def tiny_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_weights(tmp_path_factory.mktemp("weights") / "tiny.safetensors")


@pytest.fixture
def fixed(tiny_weights: Path) -> list[object]:
    """Options of `dino embed` with which the same pictures give the same floats anywhere."""
    return [
        "--weights", tiny_weights, "--device", "cpu", "--precision", "fp32", "--workers", 0,
        "--resize", 64, "--crop", 48, "--quiet", "--batch-size", 5,
    ]  # fmt: skip


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """33 drawings of 40 pixels, by class."""
    folder = tmp_path_factory.mktemp("data") / "drawn"
    draw_folder(folder, count=33, size=40, seed=0, style="final", reporter=Reporter(), masks=False)
    return folder / "images"


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A `--config` of a run that takes seconds."""
    path = tmp_path / "small.toml"
    path.write_text(small_config())
    return path


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """photos/<colour>/<n>.png: four noisy pictures for each of three colours."""
    for i, (name, colour) in enumerate(COLOURS.items()):
        folder = tmp_path / "photos" / name
        folder.mkdir(parents=True)
        for j in range(4):
            noise = np.random.default_rng(10 * i + j).normal(0, 25, (40 + j, 50 - j, 3))
            pixels = np.clip(noise + colour, 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / f"{j}.png")
    return tmp_path / "photos"


@pytest.fixture(scope="session")
def small_vit_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small_vit(tmp_path_factory.mktemp("weights") / "teacher.safetensors")


@pytest.fixture
def pca(
    small_vit_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Result]:
    """`dino pca` in an empty folder, by the small network unless another is named."""
    monkeypatch.chdir(tmp_path)

    def command(*arguments: object, code: int = 0) -> Result:
        given = [] if "--weights" in arguments else ["--weights", small_vit_weights]
        return invoke("pca", *arguments, *given, code=code)

    return command

"""Pictures for two steps an epoch, and a run so small that several processes share two cores."""

from pathlib import Path

import pytest
from small_run import small_config

from dino_cli.progress import Reporter
from dino_cli.tasks.demo.draw import draw_folder


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "drawn"
    draw_folder(folder, count=40, size=40, seed=0, style="final", reporter=Reporter(), masks=False)
    return folder / "images"  # two steps of 16 an epoch; eight images are left out


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "small.toml"
    path.write_text(small_config(batch_size=16, epochs=6, watch=0, keep_every=0))
    return path

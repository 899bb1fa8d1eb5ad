"""Which images of --eval-data judge a teacher."""

import pytest
from PIL import Image

from dino_cli.config.train import TrainConfig
from dino_cli.errors import UsageError
from dino_cli.tasks.train.knn import labelled_images


def test_images_outside_of_class_folders_judge_nothing(tmp_path):
    for name in ("loose.png", "a/1.png", "b/2.png", "b/3.png"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        Image.new("RGB", (8, 8)).save(path)
    config = TrainConfig(eval_data=tmp_path)
    assert [(file.path.name, file.label) for file in labelled_images(config)] == [
        ("1.png", "a"), ("2.png", "b"), ("3.png", "b"),
    ]  # fmt: skip
    (tmp_path / "a/1.png").unlink()
    with pytest.raises(UsageError, match="has no two class folders with images"):
        labelled_images(config)

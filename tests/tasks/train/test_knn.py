"""Which images of --eval-data judge a teacher, and how."""

from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image

from dino_cli.config.train import TrainConfig
from dino_cli.core.evaluation.neighbors import nearest
from dino_cli.core.network.backbone import Backbone
from dino_cli.data.preprocess import build_transform, normalize
from dino_cli.errors import UsageError
from dino_cli.progress import Reporter
from dino_cli.tasks.train import knn
from dino_cli.tasks.train.knn import labelled_images, teacher_knn
from dino_cli.tasks.train.setup import architecture_of, build_networks, preprocessing_of


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


@pytest.fixture
def config(tmp_path):
    """Pictures of two classes, striped or red, and one of each in the other's folder."""
    rng = np.random.default_rng(3)
    striped, red = np.zeros((2, 16, 16, 3), np.uint8)
    striped[::4] = striped[1::4] = 200
    red[..., 0] = 200
    for label, pictures in {"a": [striped] * 4 + [red], "b": [red] * 5 + [striped]}.items():
        (tmp_path / label).mkdir()
        for i, picture in enumerate(pictures):
            noise = rng.integers(0, 30, picture.shape, np.uint8)
            Image.fromarray(picture + noise).save(tmp_path / label / f"{i}.png")
    return TrainConfig(
        eval_data=tmp_path, arch="vit_tiny", width=16, depth=1, heads=1, patch_size=8, out_dim=8,
        head_hidden=8, head_bottleneck=4, global_size=16, local_size=8, workers=0,
    )  # fmt: skip


def measured(config, networks):
    return teacher_knn(config, networks, labelled_images(config), torch.device("cpu"), "fp32")


def by_hand(config, networks, k):
    """One image after the other, and a loop over all others."""
    p, net = preprocessing_of(config), Backbone(networks.teacher.backbone)
    features, labels = [], []
    for file in labelled_images(config):
        try:
            picture = build_transform(p)(Image.open(file.path).convert("RGB"))
        except OSError:
            continue
        pixels = torch.from_numpy(picture).permute(2, 0, 1)[None]
        vector = net.features(normalize(pixels, p, torch.device("cpu")))[0].double().numpy()
        features.append(vector / np.linalg.norm(vector))
        labels.append(file.label)
    right = 0
    for i, own in enumerate(features):
        others = sorted((own @ features[j], j) for j in range(len(features)) if j != i)[-k:]
        votes = dict.fromkeys(labels, 0.0)
        for similarity, j in others:
            votes[labels[j]] += np.exp(similarity / 0.07)
        right += max(votes, key=votes.get) == labels[i]
    return 100 * right / len(features)


def test_a_teacher_is_judged_by_what_can_be_read_in_blocks_of_any_size(config, monkeypatch):
    networks = build_networks(config, architecture_of(config), torch.device("cpu"), Reporter())
    monkeypatch.setattr(knn, "NEIGHBORS", 3)
    assert measured(config, networks) == pytest.approx(by_hand(config, networks, 3))
    for name in ("a/0.png", "b/1.png", "b/3.png"):
        (config.eval_data / name).write_bytes(b"nothing")
    monkeypatch.setattr(knn, "BATCH", 2)
    monkeypatch.setattr(knn, "nearest", partial(nearest, query_block=3))
    expected = by_hand(config, networks, 3)
    assert expected > 50
    assert measured(config, networks) == pytest.approx(expected)
    assert all(module.training for module in networks.teacher.modules())


def test_fewer_than_two_readable_images_judge_no_teacher(config):
    networks = build_networks(config, architecture_of(config), torch.device("cpu"), Reporter())
    for path in sorted(config.eval_data.rglob("*.png"))[1:]:
        path.write_bytes(b"nothing")
    assert measured(config, networks) is None
    (config.eval_data / "a/0.png").write_bytes(b"nothing")
    assert measured(config, networks) is None

"""k-NN of the teacher while it trains: `dino train --eval-data`."""

import torch

from dino_cli.config.train import TrainConfig
from dino_cli.core.evaluation.neighbors import nearest, votes
from dino_cli.core.network.backbone import Backbone
from dino_cli.core.training.step import Networks
from dino_cli.data.listing.image_list import ImageFile
from dino_cli.data.listing.images import find_images
from dino_cli.data.loader import image_batches
from dino_cli.data.preprocess import normalize
from dino_cli.errors import UsageError
from dino_cli.runtime import Precision, autocast
from dino_cli.tasks.train.setup import preprocessing_of

__all__ = ["labelled_images", "teacher_knn"]

NEIGHBORS, TEMPERATURE = 20, 0.07
BATCH = 64


def labelled_images(config: TrainConfig) -> list[ImageFile]:
    """The images of --eval-data; none without it. Raises `UsageError` unless they have classes."""
    if config.eval_data is None:
        return []
    files = find_images([str(config.eval_data)])
    if len({file.label for file in files if file.label}) < 2:
        raise UsageError(
            f"--eval-data {config.eval_data} has no two class folders with images",
            "give a folder such as val/ with one folder for each class",
        )
    return [file for file in files if file.label]


def teacher_knn(
    config: TrainConfig,
    networks: Networks,
    files: list[ImageFile],
    device: torch.device,
    precision: Precision,
) -> float | None:
    """Top-1 in percent of weighted k-NN over the teacher's CLS features, leave-one-out.

    k 20, temperature .07, as the paper's best. None when fewer than two images can be read.
    """
    p = preprocessing_of(config)
    net = networks.teacher.backbone
    backbone = Backbone(net)  # puts the network into eval mode
    features, kept = [], []
    try:
        for batch in image_batches(files, p, batch_size=BATCH, workers=config.workers):
            if batch.indices:
                with autocast(device, precision):
                    x = normalize(batch.images, p, device)
                    features.append(backbone.features(x).cpu())
                kept += batch.indices
    finally:
        net.train()
    if len(kept) < 2:
        return None
    classes = sorted({file.label for file in files})
    labels = torch.tensor([classes.index(files[i].label) for i in kept])
    rows = torch.cat(features).numpy()
    correct, first = 0, 0
    k = min(NEIGHBORS, len(rows) - 1)
    for similarities, indices in nearest(rows, rows, k, leave_one_out=True, device=device):
        order, _ = votes(similarities.cpu(), labels[indices.cpu()], len(classes), TEMPERATURE)
        correct += int((order[:, 0] == labels[first : first + len(order)]).sum())
        first += len(order)
    return 100 * correct / len(rows)

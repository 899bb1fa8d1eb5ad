"""The same few photos at every epoch, so that one can see objects emerge in the attention."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import torch
from torch import nn

from dino_cli.config.shared import Preprocessing
from dino_cli.config.train import TrainConfig
from dino_cli.core.network.backbone import Backbone
from dino_cli.data.decoding.decode import UnreadableImage
from dino_cli.data.decoding.own_depth import as_picture, read_input
from dino_cli.data.listing.image_list import ImageFile
from dino_cli.data.preprocess import build_transform, normalize
from dino_cli.store.runs.folder import RunFolder
from dino_cli.store.runs.watched import write_attention, write_photos
from dino_cli.tasks.train.setup import attention_size_of, preprocessing_of

__all__ = ["Watch"]


class Watch:
    """Keeps the attention of `config.watch` photos, spread evenly over the data, in RUN/watch/."""

    def __init__(self, config: TrainConfig, files: Sequence[ImageFile], folder: RunFolder) -> None:
        self.folder = folder
        own = preprocessing_of(config)
        side = round(attention_size_of(config) / config.patch_size) * config.patch_size
        self.preprocessing = Preprocessing(
            resize=side,
            crop=side,
            interpolation="bilinear",
            mean=own.mean,
            std=own.std,
            exif=own.exif,
            own_depth=own.own_depth,
        )
        transform = build_transform(self.preprocessing)
        self.photos = []
        self._kept = False
        for i in np.linspace(0, len(files) - 1, min(config.watch, len(files))).astype(int):
            try:
                self.photos.append(transform(read_input(files[i].path, own)))
            except UnreadableImage:
                continue

    @torch.no_grad()
    def look(
        self,
        backbone: nn.Module,
        device: torch.device,
        autocast: Callable[[], AbstractContextManager[Any]],
        *,
        epoch: int,
    ) -> None:
        """Keep every head's attention as it is after `epoch` epochs; one photo at a time."""
        if not self.photos:
            return
        if not self._kept:  # when a run goes on too: --watch may have changed
            self._kept = True
            pictures = [p if p.dtype == np.uint8 else as_picture(p) for p in self.photos]
            write_photos(self.folder.watch, pictures)
        rows = []
        net = Backbone(backbone)  # puts the network into eval mode
        try:
            for photo in self.photos:
                pixels = torch.from_numpy(photo).permute(2, 0, 1)[None]
                with autocast():
                    row = net.cls_attention(normalize(pixels, self.preprocessing, device))
                rows.append(row[0].float().cpu().numpy())
        finally:
            backbone.train()
        write_attention(self.folder.watch, epoch, np.stack(rows))

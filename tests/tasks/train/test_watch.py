"""The photos that a run watches: which they are, and what is kept of them."""

import numpy as np
import torch
from PIL import Image

from dino_cli.config.train import TrainConfig
from dino_cli.core.network.architecture import VitArchitecture
from dino_cli.core.network.backbone import Backbone, build
from dino_cli.data.listing.images import find_images
from dino_cli.data.preprocess import normalize
from dino_cli.runtime import autocast
from dino_cli.store.runs.folder import RunFolder
from dino_cli.store.runs.watched import read_attention, read_photos
from dino_cli.tasks.train.watch import Watch

CPU = torch.device("cpu")
CONFIG = {"patch_size": 8, "global_size": 40, "local_size": 16}


def greys(folder, count=9):
    """Photos of one grey each, 20 levels apart, in the order of their names."""
    for i in range(count):
        Image.new("RGB", (50, 60), (20 * i,) * 3).save(folder / f"{i}.png")
    return find_images([str(folder)])


def test_photos_are_spread_over_the_data_without_those_that_cannot_be_read(tmp_path):
    files = greys(tmp_path)
    files[4].path.write_bytes(b"")
    for asked, levels in {5: [0, 40, 120, 160], 2: [0, 160], 1: [0], 0: []}.items():
        watch = Watch(TrainConfig(watch=asked, **CONFIG), files, RunFolder(tmp_path / "run"))
        assert [int(photo[0, 0, 0]) for photo in watch.photos] == levels
    watch = Watch(TrainConfig(watch=50, **CONFIG), files, RunFolder(tmp_path / "run"))
    assert [int(photo[0, 0, 0]) for photo in watch.photos] == [0, 20, 40, 60, 100, 120, 140, 160]
    assert watch.photos[0].shape == (88, 88, 3)  # 40 px as 224 to 480, in whole patches


def test_attention_is_kept_by_epoch_and_the_network_trains_on(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (60, 60, 3), dtype=np.uint8)
    turned = Image.Exif()
    turned[0x0112] = 3  # upside down
    Image.fromarray(pixels).save(tmp_path / "a.png", exif=turned)
    files = find_images([str(tmp_path)])
    torch.manual_seed(0)
    net = build(VitArchitecture(width=16, depth=1, heads=2, patch_size=8, grid=(5, 5))).train()
    found = {}
    for exif in (True, False):
        folder = RunFolder(tmp_path / f"run-{exif}")
        folder.path.mkdir()
        watch = Watch(TrainConfig(exif=exif, **CONFIG), files, folder)
        for epoch in (0, 3):
            watch.look(net, CPU, lambda: autocast(CPU, "fp32"), epoch=epoch)
        assert net.training
        (photo,) = read_photos(folder.watch)
        found[exif] = photo
        attention = read_attention(folder.watch)
        assert list(attention) == [0, 3]
        x = torch.from_numpy(photo.copy()).permute(2, 0, 1)[None]
        with torch.no_grad():
            expected = Backbone(net).cls_attention(normalize(x, watch.preprocessing, CPU))
        net.train()
        np.testing.assert_allclose(attention[3], expected.numpy(), atol=1e-3)
        np.testing.assert_array_equal(attention[0], attention[3])
    np.testing.assert_allclose(found[True][::-1, ::-1].astype(float), found[False], atol=1)

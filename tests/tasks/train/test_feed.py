"""What steps are fed with: which masks, and when too much of the data is unreadable."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from heard import Heard
from in_process import refusal

from dino_cli.config.train import TrainConfig
from dino_cli.core.training.droppath import draw_masks
from dino_cli.data.views.batches import BatchPlan, ViewBatch
from dino_cli.errors import TaskError
from dino_cli.progress import Reporter
from dino_cli.runtime import Ranks
from dino_cli.tasks.train.feed import Feed

RATES = [0.0, 0.3, 0.6]


def feed(config, batches=(), *, rank=0, ranks=1, rates=(), heard=None):
    plan = BatchPlan(
        images=5000, epochs=1, batch=config.batch_size, seed=config.seed,
        accumulate=config.accumulate, rank=rank, ranks=ranks,
    )  # fmt: skip
    return Feed(
        config, plan, iter(batches), rates, torch.device("cpu"), Path("run"), heard or Reporter(),
        Ranks(),
    )  # fmt: skip


def batch(images, *unreadable):
    """Two global views of 4 pixels and three local ones of 2."""
    groups = [
        torch.randint(0, 256, (images, views, side, side, 3), dtype=torch.uint8)
        for views, side in ((2, 4), (3, 2))
    ]
    return ViewBatch(groups, [(path, "it is empty") for path in unreadable])


@pytest.mark.parametrize("rank", [0, 1])
def test_masks_are_those_of_the_whole_total_batch_at_its_images(rank):
    """Drawn by resolution for 2 micro-batches of 2 processes of 3 images, cut up image by image."""
    config = TrainConfig(batch_size=3, accumulate=2, seed=5)
    found = feed(config, rank=rank, ranks=2, rates=RATES).views([batch(3), batch(3)], 7)
    assert len(found) == 2
    for resolution, views in enumerate((2, 3)):
        whole = draw_masks(
            RATES, key=(5, 7, 0, resolution), views=views, images=12, share=slice(None)
        ).view(3, views, 12)
        for micro, one in enumerate(found):
            first = micro * 6 + rank * 3
            wanted = torch.cat([whole[:, v, first : first + 3] for v in range(views)], dim=1)
            assert torch.equal(one.masks[resolution], wanted)
            assert one.groups[resolution].shape[0] == wanted.shape[1]
    none = feed(config, rank=rank, ranks=2, rates=[0.0] * 3).views([batch(3), batch(3)], 7)
    assert all(len(one.masks) == 0 for one in none)


def test_a_step_is_fed_with_micro_batches_of_their_own():
    given = [batch(3) for _ in range(4)]
    fed = feed(TrainConfig(batch_size=3, accumulate=2), given)
    for pair in (given[:2], given[2:]):
        assert [one is other for one, other in zip(fed.read(), pair, strict=True)] == [True] * 2


def of_bad(counts) -> Iterator[ViewBatch]:
    """Micro-batches, each with so many unreadable files that none had before."""
    number = 0
    for count in counts:
        names = [f"{number + i}.jpg" for i in range(count)]
        number += count
        yield batch(1, *names)


def test_too_many_unreadable_files_among_the_first_thousand_images_end_the_run():
    """11 where one in a hundred may be: among the first 400 images, though later are more."""
    config = TrainConfig(batch_size=100, accumulate=2, max_unreadable=0.01)
    fed = feed(config, of_bad([5, 3, 1, 2]))
    fed.read()
    with pytest.raises(TaskError) as raised:
        fed.read()
    assert raised.value.what == (
        "11 files are unreadable among the first 400 images, more than 10 in a thousand, such as "
        "0.jpg (it is empty)"
    )
    assert raised.value.fix.endswith("go on with: dino train --resume run --max-unreadable 1")
    later = feed(config, of_bad([5, 3, 0, 2, 0, 0, 0, 0, 0, 0, 50, 50]))
    for _ in range(6):  # the sixth step is of images after the first thousand
        later.read()
    late = feed(config, of_bad([0, 0, 0, 0, 0, 0, 0, 0, 5, 6]))
    for _ in range(4):
        late.read()
    with pytest.raises(TaskError, match="among the first 1000 images"):
        late.read()


def test_a_total_batch_of_more_than_a_thousand_images_is_judged_as_a_whole():
    config = TrainConfig(batch_size=2000, max_unreadable=0.01)
    feed(config, of_bad([20])).read()
    with pytest.raises(TaskError, match="21 files are unreadable among the first 2000 images"):
        feed(config, of_bad([21])).read()


def test_all_files_may_be_unreadable_where_that_is_asked_for():
    """Others stand in for them, each after up to a hundred that are unreadable too."""
    fed = feed(TrainConfig(batch_size=100, max_unreadable=1.0), of_bad([600, 600, 600]))
    for _ in range(3):
        fed.read()
    assert len(fed.all_unreadable()) == 1800


def test_an_unreadable_file_is_told_once_however_often_it_is_read():
    heard = Heard()
    fed = feed(
        TrainConfig(batch_size=1, max_unreadable=1.0), [batch(1, "a.jpg", "b.jpg")] * 3, heard=heard
    )
    for _ in range(3):
        fed.read()
    assert heard.remarks == ["skipping a.jpg: it is empty", "skipping b.jpg: it is empty"]


def test_of_images_that_cannot_be_read_at_all_the_first_is_named(small, tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    (data / "a.png").write_bytes(b"")
    (data / "b.png").write_bytes(b"no picture" * 100)
    for i in range(8):
        (data / f"c{i}.png").write_bytes(b"no picture" * 100)
    said = refusal(1, "train", data, "--config", small, "-o", tmp_path / "run")
    assert f"none of 10 images can be read ({data / 'a.png'}: empty file)" in said
    assert not (tmp_path / "run").exists()

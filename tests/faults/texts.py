"""Texts that commands read: for each kind good ones, and a function that reads any."""

import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from faults.damage import BETWEEN
from faults.reads import HEAD64, TRAIN, command, tensors
from safetensors.torch import save, save_file
from small_vit import photo, write_small_vit

from dino_cli.config.knn import KnnConfig
from dino_cli.config.resolve import resolve, stored
from dino_cli.config.setting import to_json
from dino_cli.config.train import TrainConfig
from dino_cli.core.network.architecture import architecture_to_json
from dino_cli.data.listing.images import find_images
from dino_cli.errors import DinoError
from dino_cli.progress import Reporter
from dino_cli.store.weights.inspection import inspect_weights
from dino_cli.store.weights.load import load
from dino_cli.store.writing.folders import folder_names
from dino_cli.tasks.knn.run import knn
from dino_cli.tasks.train.check import check, check_views
from dino_cli.tasks.train.setup import architecture_of

__all__ = ["TEXTS", "told"]

# Given a folder: good inputs, and what reads one.
Text = Callable[[Path], tuple[list[bytes], Callable[[bytes], Any]]]
TEXTS: dict[str, Text] = {}


def text(make: Text) -> Text:
    TEXTS[make.__name__] = make
    return make


@text
def lists(folder: Path) -> Any:
    seeds = [b"a.png\nb/c.png\n", b"a.png\tcat\n../b.png\tdog\n", b"/x/a.png\0b\nc.png\0"]
    seeds += [b"\xef\xbb\xbfa.png\r\n./b/../c.png\r\n", b"b.tar/a.png\n~/x.png\n", b"\xff.png\n.\n"]

    def read(content: bytes) -> None:
        (folder / "list.txt").write_bytes(content)
        for files in all_of(
            lambda: find_images([f"{folder}/list.txt"]),
            lambda: find_images([f"{folder}/list.txt"], null=True),
        ):
            assert len(list(files)) == len(files) == len(list(files.relatives()))
            for name in folder_names([file.relative for file in files]):  # of the results
                assert not name.is_absolute(), name
                assert ".." not in name.parts, name

    return seeds, read


@text
def sidecars(folder: Path) -> Any:
    for i in range(6):
        photo(folder / "photos" / "ab"[i % 2] / f"{i}.png", seed=i)
    weights = write_small_vit(folder / "w.safetensors")
    feats, seeds = folder / "feats.npy", []
    for more in ((), ("--features", "cls,patch")):
        words = ("embed", folder / "photos", "--weights", weights, "--workers", 0, "--overwrite")
        command(*words, "-o", feats, *more)
        texts = [feats.with_suffix(suffix).read_bytes() for suffix in (".csv", ".json")]
        seeds.append(BETWEEN.join(texts))

    def read(content: bytes) -> None:
        table, _, facts = content.partition(BETWEEN)
        feats.with_suffix(".csv").write_bytes(table)
        feats.with_suffix(".json").write_bytes(facts)
        one = KnnConfig(index=(feats,), k=(2,), device="cpu")
        all_of(
            lambda: knn(replace(one, per_class=True), Reporter()),
            lambda: knn(replace(one, duplicates=0.5), Reporter()),
        )

    return seeds, read


@text
def configs(folder: Path) -> Any:
    path = folder / "c.toml"
    every = TRAIN + 'jitter = [0.4, 0.4, 0.2, 0.1]\nglobal_size = "16x24"\nfinal_size = [16, 8]\n'
    every = every.replace("global_size = 16\n", "") + 'init_from = "w.pth"\ndata = ["photos"]\n'

    def read(content: bytes) -> None:
        path.write_bytes(content)
        config = resolve(TrainConfig(config=path, data=("photos",)), {"config", "data"})
        check(config)
        json.dumps(to_json(config))
        check_views(architecture_of(config), config)

    return [TRAIN.encode(), every.encode(), every_option().encode()], read


def every_option() -> str:
    values = to_json(TrainConfig())
    only_flags = ("resume", "config", "preset", "dry_run")
    return "".join(
        f"{name} = {json.dumps(1 if value is None else value)}\n"
        for name, value in values.items()
        if name not in only_flags
    )


@text
def run_configs(folder: Path) -> Any:
    path = folder / "config.json"
    good = {"format": 1, "train": to_json(TrainConfig(data=("photos",)))}

    def read(content: bytes) -> None:
        path.write_bytes(content)
        with suppress(ValueError, RecursionError):  # told by what calls it
            values = json.loads(content)
            config = stored(values, path)
            check(config)
            check_views(architecture_of(config), config)

    return [json.dumps(good, indent=2).encode()], read


@text
def headers(folder: Path) -> Any:
    path = folder / "w.safetensors"
    about = {"architecture": architecture_to_json(HEAD64), "attention_size": 48}
    save_file(tensors(), path, metadata={"dino": json.dumps(about)})
    own = path.read_bytes()
    write_small_vit(path)
    seeds = [own, path.read_bytes(), save(tensors()), save(tensors(), {"format": "pt"})]
    seeds.append(save({"w": torch.ones(2, 3), "b": torch.ones(0, dtype=torch.bfloat16)}))

    def read(content: bytes) -> None:
        path.write_bytes(content)
        all_of(lambda: load(model="", weights=path), lambda: inspect_weights(path, "teacher"))

    return seeds, read


def all_of(*uses: Callable[[], Any]) -> list[Any]:
    """What each returns; what the last of them has told is raised once all had their turn."""
    results, said = [], None
    for use in uses:
        try:
            results.append(use())
        except DinoError as error:
            told(error)
            said = error
    if said is not None:
        raise said
    return results


def told(error: DinoError) -> None:
    assert str(error).strip(), "says nothing"
    assert len(str(error)) < 2000, "says too much"

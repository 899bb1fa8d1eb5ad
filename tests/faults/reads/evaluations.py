"""What the evaluations read beside pictures: ground truth, lists, masks, scores, classifiers."""

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
from faults.reads.base import command, reader
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file
from small_vit import photo, write_small_vit

from dino_cli.store.benchmarks.davis import encode_labels

QUIET = ("--device", "cpu", "--workers", 0, "--json")


def _landmarks(folder: Path) -> tuple[dict[str, Any], tuple[object, ...]]:
    for i in range(4):
        photo(folder / "root" / "jpg" / f"{i}.jpg", size=(24, 20), seed=i)
    truth: dict[str, Any] = {"imlist": ["0", "1", "2"], "qimlist": ["3", "0"]}
    truth["gnd"] = [
        {"easy": [0], "hard": [1], "junk": [2], "bbx": [0.5, 1.5, 9.0, 9.0]},
        {"easy": np.array([1], np.int64), "hard": [], "junk": [0]},
    ]
    weights = write_small_vit(folder / "w.safetensors")
    words = ("eval", "retrieval", folder / "root", "--weights", weights, "--image-size", 16)
    return truth, (*words, "-o", folder / "out", "--overwrite", *QUIET)


@reader
def ground_truth_json(folder: Path) -> Any:
    truth, words = _landmarks(folder)
    path = folder / "root" / "gnd_small.json"
    path.write_text(json.dumps(truth, default=lambda array: array.tolist()))
    return [path], lambda: command(*words)


@reader
def ground_truth_pkl(folder: Path) -> Any:
    truth, words = _landmarks(folder)
    path = folder / "root" / "gnd_small.pkl"
    path.write_bytes(pickle.dumps(truth, 2))
    return [path], lambda: command(*words)


@reader
def eval_all_config(folder: Path) -> Any:
    for i in range(6):
        photo(folder / "photos" / "ab"[i % 2] / f"{i}.png", size=(24, 20), seed=i)
    weights = write_small_vit(folder / "w.safetensors")
    path = folder / "sets.toml"
    path.write_text(
        '[knn]\ntrain = "photos"\nval = "photos"\nk = [1, 2]\ntemperature = [0.07]\nresize = 36\n'
        "\n"
        '[retrieval]\nroot = "photos"\nimage_size = 16\nmulti_scale = false\nstrict = true\n'
        "\n"
        '[linear.small]\ntrain = "photos"\nval = "photos"\nfast = true\nlr = 0.1\n'
        "n_last_blocks = 1\navgpool = false\n"
    )
    words = ("eval", "all", weights, "--config", path, "-o", folder / "page.html", "--overwrite")
    return [path], lambda: command(*words, *QUIET)


def _davis(folder: Path) -> tuple[object, ...]:
    root = folder / "root"
    for video in ("one", "two"):
        for i in range(4):
            photo(root / "JPEGImages" / "480p" / video / f"{i}.png", size=(24, 16), seed=i)
            numbers = np.zeros((16, 24), np.uint8)
            numbers[2 : 6 + i, 3:9], numbers[9:13, 12 : 15 + i] = 1, 2
            mask = root / "Annotations" / "480p" / video / f"{i}.png"
            mask.parent.mkdir(parents=True, exist_ok=True)
            mask.write_bytes(encode_labels(numbers))
    (root / "ImageSets" / "2017").mkdir(parents=True)
    (root / "ImageSets" / "2017" / "val.txt").write_text("one\ntwo\n")
    weights = write_small_vit(folder / "w.safetensors")
    words = ("eval", "video", root, "--weights", weights, "--image-size", 16)
    return (*words, "-o", folder / "out", *QUIET)


@reader
def video_masks(folder: Path) -> Any:
    words = _davis(folder)
    masks = sorted((folder / "root" / "Annotations" / "480p" / "one").iterdir())
    lists = folder / "root" / "ImageSets" / "2017" / "val.txt"
    return [*masks, lists], lambda: command(*words, "--overwrite")


@reader
def video_resume(folder: Path) -> Any:
    words = _davis(folder)
    command(*words)
    return [folder / "out" / "one" / "scores.json"], lambda: command(*words, "--resume")


@reader
def segmentation_maps(folder: Path) -> Any:
    maps = []
    for i in range(3):
        photo(folder / "photos" / f"{i}.png", size=(24, 16), seed=i)
        numbers = np.zeros((16, 24), np.uint8)
        numbers[4:12, 6:18] = 1
        maps.append(folder / "maps" / f"{i}.png")
        maps[-1].parent.mkdir(exist_ok=True)
        Image.fromarray(numbers).save(maps[-1])
    (folder / "names.txt").write_text("0\n1\n2\n")
    weights = write_small_vit(folder / "w.safetensors")
    words = ("eval", "segmentation", folder / "photos", folder / "maps", "--weights", weights)
    words = (*words, "--names", folder / "names.txt", "--no-random", "--image-size", "16x24")
    return [*maps, folder / "names.txt"], lambda: command(*words, *QUIET)


@reader
def classifier_facts(folder: Path) -> Any:
    for i in range(8):
        photo(folder / "photos" / "ab"[i % 2] / f"{i}.png", size=(24, 20), seed=i)
    weights = write_small_vit(folder / "w.safetensors")
    train = ("eval", "linear", folder / "photos", folder / "photos", "--weights", weights)
    command(*train, "--fast", "--epochs", 1, "-o", folder / "out", *QUIET)
    path, about = folder / "out" / "classifier.safetensors", folder / "about.json"
    with safe_open(path, "pt") as file:
        about.write_text(file.metadata()["dino_classifier"])
        held = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    words = ("eval", "linear", "--classifier", path, "--predict", folder / "photos", "--offline")
    words = (*words, "-o", folder / "named", "--overwrite", *QUIET)

    def read() -> None:
        save_file(held, path, metadata={"dino_classifier": about.read_text(errors="replace")})
        command(*words)

    return [about], read

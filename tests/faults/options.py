"""Every option of every command with values that nobody meant: a result, or one sentence.

python tests/faults/options.py --tries 300 [COMMAND …]   prints the counts as JSON

Memory is bounded (RLIMIT_AS) and so is the time of each try. Meant for a process of its own.
"""

import argparse
import json
import os
import random
import shutil
import sys
import tempfile
import traceback
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import torch
from faults.readers import bound_memory, read_once
from faults.reads import TRAIN, Told, command
from in_process import command_tree
from small_vit import photo, write_small_vit

from dino_cli.errors import DinoError
from dino_cli.store.benchmarks.davis import encode_labels

VALUES = (
    "0", "1", "2", "-1", "3.5", "1e400", "nan", "inf", "-inf", "99999999999999999999", "1e-320",
    "0x10", "1_000", "٣", "", " ", "\n", "\t", "x", "a,b", ",", ",,", "0,0", "0,99", "all,all", "-",
    "--", "é", "🦕", "x" * 300, "../x", "a/b", "nothing.npy", "photos", "w.safetensors", "list.txt",
    "0x0", "1x1", "8x8", "-8x8", "99999x99999", "8x", "x8", "8", "0%,0%", "50%,50%",
    "-1%,200%", "1,1",
    "auto", "cpu", "cuda", "cuda:99", "mps", "meta", "fp16", "bf16", "cls", "patch", "cls,patch",
    "<script>", "'", '"', "%s", "{}", "$HOME", "feats.npy", "new.npy", "new.csv", "new.html", "new",
    "None", "true", "1-2", "1:2", "#fff", "red", "hf-hub:x/y", "local-dir:x", "dino_vits16",
)  # fmt: skip
SKIPPED = {"help", "version", "json", "quiet", "print_sbatch", "compile", "gpus"}
SKIPPED_OF = {"map": {"output"}}  # a folder is filled by another program, however long that takes
# What one must not ask of a machine that others use: it is for people to choose.
COSTLY = {"epochs": ("0", "-1", "x"), "workers": ("-1", "0", "x", "1.5")}
QUICK = ("--weights", "w.safetensors", "--workers", "0", "--device", "cpu")
BASES: dict[str, tuple[str, ...]] = {
    "embed": ("photos", "--weights", "w.safetensors", "-o", "new.npy", "--workers", "0"),
    "knn": ("--index", "feats.npy"),
    "attention": ("photos/x/a.png", "--weights", "w.safetensors", "-o", "new", "--workers", "1"),
    "pca": ("photos", "--weights", "w.safetensors", "-o", "new", "--workers", "1"),
    "export": ("w.safetensors", "-o", "new.safetensors"),
    "report": ("run", "-o", "new.html"),
    "train": ("photos", "--config", "small.toml", "--dry-run", "-o", "new"),
    "demo": ("--images", "new", "--count", "4"),
    "map": ("feats.npy", "-o", "new.png", "--project", "pca"),
    "eval knn": ("photos", "photos", *QUICK),
    "eval linear": ("photos", "photos", "--fast", "--epochs", "1", *QUICK),
    "eval retrieval": ("photos", *QUICK),
    "eval segmentation": ("frames/JPEGImages", "frames/Annotations", "--no-random", *QUICK),
    "eval video": ("frames", *QUICK),
    "eval copies": ("copies", *QUICK),
    "eval all": ("w.safetensors", "--config", "sets.toml", "-o", "new.html", "--workers", "0"),
}


def options_of(name: str) -> list[tuple[str, bool]]:
    """Flags of a command, and whether each takes a value."""
    found: Any = command_tree()
    for part in name.split():
        found = found.commands[part]
    return [
        (flag, not getattr(p, "is_flag", False))
        for p in found.params
        if p.param_type_name == "option" and p.name not in SKIPPED | SKIPPED_OF.get(name, set())
        for flag in (*p.opts, *p.secondary_opts)
    ]


def try_command(name: str, tries: int, seed: int) -> dict[str, Any]:
    draw = random.Random(f"{name} {seed}")
    counts: dict[str, Any] = {"tries": 0, "done": 0, "told": 0, "faults": 0, "kinds": {}}
    flags = options_of(name)
    before = Path.cwd()
    with tempfile.TemporaryDirectory() as made:
        good, work = Path(made) / "good", Path(made) / "work"
        good.mkdir()
        os.chdir(good)
        _inputs()
        for _ in range(tries):
            os.chdir(before)
            shutil.rmtree(work, ignore_errors=True)
            shutil.copytree(good, work)
            os.chdir(work)
            words = [*name.split(), *BASES[name]]
            for flag, valued in draw.sample(flags, draw.choice((1, 1, 2, 3))):
                key = flag.lstrip("-").replace("-", "_")
                words += [flag, draw.choice(COSTLY.get(key, VALUES))] if valued else [flag]
            counts["tries"] += 1
            try:
                read_once(lambda: command(*words))  # noqa: B023
                counts["done"] += 1
            except (DinoError, Told):
                counts["told"] += 1
            except BaseException as error:
                counts["faults"] += 1
                frames = traceback.extract_tb(error.__traceback__)
                ours = [f for f in frames if "dino_cli" in f.filename] or frames
                where = f"{Path(ours[-1].filename).name}:{ours[-1].lineno}"
                kind = f"{type(error).__name__} at {where}: {str(error)[:160]}"
                counts["kinds"].setdefault(
                    kind, [0, words[len(name.split()) + len(BASES[name]) :]]
                )[0] += 1
                if isinstance(error, KeyboardInterrupt):
                    raise
        os.chdir(before)
    return counts


def _inputs() -> None:
    for i in range(4):
        photo(Path("photos") / "xy"[i % 2] / f"{'abcd'[i]}.png", size=(24, 20), seed=i)
    write_small_vit(Path("w.safetensors"))
    for i in range(3):
        photo(Path("copies") / "original" / f"{i}.png", size=(24, 20), seed=i)
        photo(Path("copies") / "strong" / f"{i}.png", size=(20, 20), seed=i)
        photo(Path("frames") / "JPEGImages" / "one" / f"{i}.png", size=(24, 16), seed=i)
        (mask := Path("frames") / "Annotations" / "one" / f"{i}.png").parent.mkdir(
            parents=True, exist_ok=True
        )
        mask.write_bytes(encode_labels(np.eye(16, 24, i, np.uint8)))
    Path("sets.toml").write_text('[retrieval]\nroot = "photos"\nimage_size = 16\n')
    Path("small.toml").write_text(TRAIN)
    Path("list.txt").write_text("photos/x/a.png\n")
    command("embed", "photos", "--weights", "w.safetensors", "-o", "feats.npy", "--workers", 0)
    command(
        "train", "photos", "--config", "small.toml", "-o", "run", "--batch-size", 2, "--epochs", 1
    )


def main() -> None:
    words = argparse.ArgumentParser()
    words.add_argument("commands", nargs="*")
    words.add_argument("--tries", type=int, default=100)
    words.add_argument("--seed", type=int, default=0)
    given = words.parse_args()
    torch.set_num_threads(1)
    found = {}
    for name in given.commands or BASES:
        bound_memory()
        found[name] = try_command(name, given.tries, given.seed)
        print(name, json.dumps(found[name], indent=1), file=sys.stderr, flush=True)  # noqa: T201
    print(json.dumps(found))  # noqa: T201


if __name__ == "__main__":
    main()

"""Texts that commands read, mutated from good ones under the guidance of coverage.

python tests/faults/fuzz.py --minutes 60 [TARGET…]   prints the counts as JSON

The time is shared out among the targets, each in a process of its own, with bounded memory
(RLIMIT_AS) and time for each try. Atheris guides where it is installed (`pip install atheris`);
else the same mutations are drawn blindly. What raised anything but a sentence is kept below --keep.
"""

import argparse
import faulthandler
import json
import os
import random
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from faults.damage import BETWEEN, damaged
from faults.readers import Late, a_limit, bound_memory

from dino_cli.errors import DinoError

try:
    import atheris
except ImportError:
    atheris = None

NAMES = ["lists", "sidecars", "configs", "run_configs", "headers"]


def watched_texts() -> Any:
    """`TEXTS`, of our code and of TOML's so imported that new paths through them are seen."""
    if atheris is None:
        from faults.texts import TEXTS
    else:
        with atheris.instrument_imports(include=["dino_cli", "tomllib"]):
            from faults.texts import TEXTS
    return TEXTS


class Tries:
    """What came of the inputs; written to a file now and then, since a fuzzer ends as it likes."""

    def __init__(self, name: str, read: Callable[[bytes], Any], report: Path, keep: Path | None):
        self.name, self.read, self.report, self.keep = name, read, report, keep
        self.counts = {"tries": 0, "read": 0, "told": 0, "faults": 0, "kinds": {}, "slowest": 0.0}
        self.written = 0.0

    def one(self, content: bytes) -> None:
        counts, began = self.counts, time.monotonic()
        counts["tries"] += 1
        try:
            with a_limit():
                self.read(content)
            counts["read"] += 1
        except DinoError:
            counts["told"] += 1
        except (Exception, Late) as error:
            counts["faults"] += 1
            frames = traceback.extract_tb(error.__traceback__)
            ours = [f for f in frames if "dino_cli" in f.filename] or frames
            kind = f"{type(error).__name__} at {Path(ours[-1].filename).name}:{ours[-1].lineno}"
            if kind not in counts["kinds"] and self.keep is not None:
                number = len(counts["kinds"])
                (self.keep / f"{self.name}-{number}").write_bytes(content)
                text = "".join(traceback.format_exception(error))
                (self.keep / f"{self.name}-{number}.txt").write_text(text, errors="replace")
            counts["kinds"].setdefault(kind, [0, str(error)[:120]])[0] += 1
        now = time.monotonic()
        counts["slowest"] = max(counts["slowest"], round(now - began, 2))
        if now - self.written > 2:
            self.written = now
            self.write()

    def write(self) -> None:
        self.report.write_text(json.dumps(self.counts))


def one_damaged(content: bytes, draw: random.Random) -> bytes:
    """With damages in one of the files of an input."""
    files = content.split(BETWEEN)
    at = draw.randrange(len(files))
    files[at] = damaged(files[at], draw)[1]
    return BETWEEN.join(files)


def fuzz(name: str, seconds: float, seed: int, report: Path, keep: Path | None) -> None:
    """One target, in this process, until the time is over."""
    with tempfile.TemporaryDirectory() as place:
        work, corpus = Path(place) / "work", Path(place) / "corpus"
        work.mkdir()
        corpus.mkdir()
        seeds, read = watched_texts()[name](work)
        for number, content in enumerate(seeds):
            (corpus / str(number)).write_bytes(content)
        tries = Tries(name, read, report, keep)
        for content in seeds:
            tries.one(content)
        bound_memory()
        draw = random.Random(f"{name} {seed}")
        end = time.monotonic() + seconds
        if atheris is None:
            while time.monotonic() < end:
                tries.one(one_damaged(draw.choice(seeds), draw))
            tries.write()
            return

        def mutated(content: bytes, most: int, seed: int) -> bytes:
            draw.seed(seed)
            if draw.random() < 0.5:
                return one_damaged(content, draw)[:most]
            if content[8:9] == b"{":  # the header alone, and its length told right
                length = min(int.from_bytes(content[:8], "little"), len(content) - 8)
                header = atheris.Mutate(content[8 : 8 + length], max(1, most - 8 - length))
                return (len(header).to_bytes(8, "little") + header + content[8 + length :])[:most]
            return atheris.Mutate(content, most)

        most = max(map(len, seeds)) * 2
        flags = [f"-max_total_time={int(seconds)}", f"-seed={seed + 1}", f"-max_len={most}"]
        flags += ["-rss_limit_mb=0", "-timeout=300", "-verbosity=0", "-print_final_stats=0"]
        atheris.Setup([sys.argv[0], *flags, str(corpus)], tries.one, custom_mutator=mutated)
        atheris.Fuzz()


def main() -> None:
    words = argparse.ArgumentParser()
    words.add_argument("targets", nargs="*")
    words.add_argument("--minutes", type=float, default=5.0)
    words.add_argument("--seed", type=int, default=0)
    words.add_argument("--keep", type=Path, help="a folder for the inputs that made a fault")
    words.add_argument("--report", type=Path, help=argparse.SUPPRESS)  # of the process of a target
    given = words.parse_args()
    names = given.targets or NAMES
    seconds = 60 * given.minutes / len(names)
    faulthandler.enable()
    if given.report is not None:
        torch.set_num_threads(1)
        fuzz(names[0], seconds, given.seed, given.report, given.keep)
        return
    found = {}
    for name in names:
        with tempfile.TemporaryDirectory() as place:
            report = Path(place) / "counts.json"
            line = [sys.executable, __file__, name, "--minutes", str(seconds / 60)]
            line += ["--seed", str(given.seed), "--report", str(report)]
            line += ["--keep", str(given.keep)] if given.keep else []
            done = subprocess.run(line, stdout=sys.stderr, check=False)
            found[name] = json.loads(report.read_text())
        # A crash of the interpreter, or a hang that no handler ended, is a fault too.
        found[name]["exit"] = done.returncode
        found[name]["faults"] += done.returncode != 0
        print(name, json.dumps(found[name], indent=1), file=sys.stderr, flush=True)  # noqa: T201
    print(json.dumps(found))  # noqa: T201


if __name__ == "__main__":
    main()

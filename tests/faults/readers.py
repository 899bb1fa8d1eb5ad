"""Every file that a command reads, damaged in many ways: each time one sentence, or a result.

python tests/faults/readers.py --tries 1000 [READER …]   prints the counts as JSON

Memory is bounded (RLIMIT_AS) and so is the time of each try; a traceback, a crash or a file that
ran is a fault. Meant for a process of its own.
"""

import argparse
import faulthandler
import json
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from faults.damage import damaged
from faults.reads import READERS, Told

from dino_cli.errors import DinoError

MORE_BYTES = 1536 * 2**20  # that reading may take beyond what the process has
SECONDS = 20  # of one try


class Late(BaseException):
    """A try took too long. Not a `TimeoutError`: that is an `OSError`, which readers translate."""


def try_reader(name: str, tries: int, seed: int, keep: Path | None) -> dict[str, Any]:
    counts: dict[str, Any] = {"tries": 0, "read": 0, "told": 0, "faults": 0, "kinds": {}}
    draw = random.Random(f"{name} {seed}")
    slowest, what_was_slowest = 0.0, ""
    with tempfile.TemporaryDirectory() as place:
        good, work = Path(place) / "good", Path(place) / "work"
        work.mkdir()
        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (hard, hard))
        victims, read = READERS[name](work)
        read_once(read)
        shutil.rmtree(work)
        work.mkdir()
        victims, read = READERS[name](work)
        shutil.copytree(work, good)
        bound_memory()  # now that everything is imported
        for number in range(tries):
            shutil.rmtree(work)
            shutil.copytree(good, work)
            victim = draw.choice(victims)
            what, content = damaged(victim.read_bytes(), draw)
            victim.write_bytes(content)
            started = time.monotonic()
            counts["tries"] += 1
            try:
                read_once(read)
                counts["read"] += 1
            except (DinoError, Told):
                counts["told"] += 1
            except BaseException as error:
                counts["faults"] += 1
                last = traceback.extract_tb(error.__traceback__)[-1]
                ours = [
                    f for f in traceback.extract_tb(error.__traceback__) if "dino_cli" in f.filename
                ]
                where = (
                    f"{Path(ours[-1].filename).name}:{ours[-1].lineno}" if ours else last.filename
                )
                kind = f"{type(error).__name__} at {where}: {str(error)[:120]}"
                seen = counts["kinds"].setdefault(kind, [0, f"{victim.name} {what} #{number}"])
                seen[0] += 1
                if keep is not None and seen[0] == 1:
                    shutil.copyfile(victim, keep / f"{name}-{number}-{victim.name}")
                    (keep / f"{name}-{number}.txt").write_text(
                        "".join(traceback.format_exception(error)), errors="backslashreplace"
                    )
                if isinstance(error, KeyboardInterrupt):
                    raise
            took = time.monotonic() - started
            if took > slowest:
                slowest, what_was_slowest = took, f"{victim.name} {what} #{number}"
    counts["slowest"] = [round(slowest, 2), what_was_slowest]
    return counts


def read_once(read: Callable[[], Any]) -> None:
    with a_limit():
        read()


@contextmanager
def a_limit() -> Iterator[None]:
    def late(*_: object) -> None:
        raise Late(f"more than {SECONDS} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(SECONDS)
    faulthandler.dump_traceback_later(6 * SECONDS, exit=True)  # where no handler gets its turn
    try:
        yield
    finally:
        signal.alarm(0)
        faulthandler.cancel_dump_traceback_later()
        signal.signal(signal.SIGALRM, before)


def bound_memory() -> None:
    """Beyond what the process has now; an earlier bound is lifted."""
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + MORE_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, hard))


def main() -> None:
    words = argparse.ArgumentParser()
    words.add_argument("readers", nargs="*")
    words.add_argument("--tries", type=int, default=100)
    words.add_argument("--seed", type=int, default=0)
    words.add_argument("--keep", type=Path, help="a folder for the files that made a fault")
    given = words.parse_args()
    torch.set_num_threads(1)
    found = {}
    for name in given.readers or READERS:
        found[name] = try_reader(name, given.tries, given.seed, given.keep)
        print(name, json.dumps(found[name], indent=1), file=sys.stderr, flush=True)  # noqa: T201
    print(json.dumps(found))  # noqa: T201


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    main()

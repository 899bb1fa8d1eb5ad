"""A full disk, a folder that refuses: one sentence, the old files whole, nothing half left.

python tests/faults/disks.py --tries 40 [COMMAND …]   prints the counts as JSON

Half of the tries bound the size of every file (RLIMIT_FSIZE); the others refuse one change on disk,
be it an opening, a rename or a new folder, as full, read-only or not permitted. Half of all write
over an earlier output. Meant for a process of its own, with one thread.
"""

import argparse
import errno
import os
import random
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

from faults.forks import count_changes, forked, limited_to, refused_at
from faults.jobs import AGAIN, FIRST, JOBS, KEPT, OVER, contents, try_all

CODES = (errno.ENOSPC, errno.EACCES, errno.EROFS, errno.EIO)


def try_job(name: str, tries: int, seed: int) -> dict[str, Any]:
    draw = random.Random(f"{name} {seed}")
    counts: dict[str, Any] = {"tries": 0, "refused": 0, "good": 0, "faults": []}
    with tempfile.TemporaryDirectory() as made:
        top = Path(made)
        (top / "inputs").mkdir()
        work, compared = JOBS[name](top / "inputs")
        whole, log = top / "whole", top / "log"
        whole.mkdir()
        changes = {}
        for turn in (FIRST, OVER):
            within = count_changes(whole, top / "count")
            code, _ = forked(lambda: work(whole, turn), log, within=within)  # noqa: B023
            assert code == 0, log.read_text()
            changes[turn] = int((top / "count").read_text())
        wanted, largest = compared(whole), _largest(whole)
        for number in range(tries):
            counts["tries"] += 1
            place = top / f"{number}"
            place.mkdir()
            turn = OVER if number % 4 > 1 and changes[OVER] else FIRST
            if turn == OVER:
                shutil.copytree(whole, place, dirs_exist_ok=True)
            if number % 2:
                at, reason = draw.randint(1, changes[turn]), draw.choice(CODES)
                when = f"{errno.errorcode[reason]} at change {at} of {changes[turn]}, {turn}"
                within = refused_at(place, at, reason)
            else:
                size = draw.choice((0, 1, draw.randrange(200), draw.randrange(largest + 1)))
                when, within = f"{size} of {largest} bytes, {turn}", limited_to(size)
            code, _ = forked(lambda: work(place, turn), log, within=within)  # noqa: B023
            counts["refused"] += code != 0
            wrong = _wrong(code, log.read_text(errors="replace"))
            if not wrong and (name in KEPT or (code and "with --resume" in log.read_text())):
                code, _ = forked(lambda: work(place, AGAIN), log)  # noqa: B023
                if code or compared(place) != wanted:
                    wrong = f"goes on to another result ({code})"
            elif not wrong:
                there = contents(place)
                right = contents(whole) if turn == OVER or code == 0 else {}
                if code == 0 and there != right:
                    # It could not clean up behind itself: the next command does.
                    again = AGAIN if name.startswith("embed") else OVER
                    code, _ = forked(lambda: work(place, again), log)  # noqa: B023
                    there = contents(place)
                if there != right:
                    wrong = f"left {sorted(set(there) ^ set(right))[:4]}, changed " + str(
                        [n for n in there if n in right and there[n] != right[n]][:4]
                    )
            if wrong:
                counts["faults"].append(
                    {"when": when, "code": code, "wrong": wrong, "log": log.read_text()[-1500:]}
                )
            counts["good"] += not wrong
            shutil.rmtree(place)
    counts["changes"] = changes
    return counts


def _wrong(code: int, said: str) -> str:
    """What is wrong with an exit code and what was printed."""
    if "Traceback" in said or code not in (0, 1):
        return "a traceback" if "Traceback" in said else f"exit code {code}"
    errors = [line for line in said.splitlines() if line.startswith("dino: error: ")]
    return "" if len(errors) == code else f"{len(errors)} errors with exit code {code}"


def _largest(folder: Path) -> int:
    return max(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def main() -> None:
    words = argparse.ArgumentParser()
    words.add_argument("jobs", nargs="*")
    words.add_argument("--tries", type=int, default=40)
    words.add_argument("--seed", type=int, default=0)
    given = words.parse_args()
    try_all(given.jobs or JOBS, lambda name: try_job(name, given.tries, given.seed))


if __name__ == "__main__":
    main()

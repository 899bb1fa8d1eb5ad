"""SIGKILL at random instants, and before each change on disk: what is left can be gone on with, and
ends as if nothing had been.

python tests/faults/kills.py --tries 20 [COMMAND …]   prints the counts as JSON

Meant for a process of its own, with one thread.
"""

import argparse
import os
import random
import shutil
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

from faults.forks import count_changes, forked, killed_at
from faults.jobs import AGAIN, FIRST, JOBS, OVER, try_all


def try_job(name: str, tries: int, seed: int) -> dict[str, Any]:
    """A half of the tries at random instants, the others before changes on disk, half of those over
    an earlier output."""
    draw = random.Random(f"{name} {seed}")
    counts: dict[str, Any] = {"tries": 0, "killed": 0, "same": 0, "faults": []}
    with tempfile.TemporaryDirectory() as made:
        top = Path(made)
        (top / "inputs").mkdir()
        work, compared = JOBS[name](top / "inputs")
        whole, log = top / "whole", top / "log"
        whole.mkdir()
        code, seconds = forked(lambda: work(whole, FIRST), log)
        assert code == 0, log.read_text()
        wanted = compared(whole)
        changes = {}
        for turn in (FIRST, OVER):
            place = top / "counted"
            if turn == FIRST:
                place.mkdir()
            within = count_changes(place, top / "count")
            code, _ = forked(lambda: work(place, turn), log, within=within)  # noqa: B023
            assert code == 0, log.read_text()
            assert compared(place) == wanted, "two runs differ"
            changes[turn] = int((top / "count").read_text())
        shutil.rmtree(top / "counted")
        for number in range(tries):
            counts["tries"] += 1
            place = top / f"{number}"
            place.mkdir()
            turn = FIRST
            if number % 2:
                turn = OVER if number % 4 == 3 and changes[OVER] else FIRST
                if turn == OVER:
                    shutil.copytree(whole, place, dirs_exist_ok=True)
                at = draw.randint(1, changes[turn])
                within = killed_at(place, at)
                when = f"change {at} of {changes[turn]}, {turn}"
                code, _ = forked(lambda: work(place, turn), log, within=within)  # noqa: B023
            else:
                after = draw.uniform(0.02, seconds)
                when = f"{after:.3f} of {seconds:.3f} s"
                code, _ = forked(lambda: work(place, FIRST), log, after=after)  # noqa: B023
            counts["killed"] += code == -signal.SIGKILL
            left = sorted(compared(place)) if turn == OVER and code else []
            code, _ = forked(lambda: work(place, AGAIN), log)  # noqa: B023
            refused = (
                "already exists" in log.read_text() or "holds an interrupted" in log.read_text()
            )
            if code == 1 and refused:  # it had come to its end, or asks to be told
                code, _ = forked(lambda: work(place, OVER), log)  # noqa: B023
            found = compared(place) if code == 0 else {}
            if code == 0 and found == wanted:
                counts["same"] += 1
            else:
                more = [str(n) for n in found if n not in wanted]
                other = [str(n) for n in wanted if found.get(n) != wanted[n]]
                counts["faults"].append(
                    {"when": when, "code": code, "more": more[:4], "other": other[:4],
                     "left": left[:6], "log": log.read_text()[-600:]}
                )  # fmt: skip
            shutil.rmtree(place)
    counts["seconds"], counts["changes"] = round(seconds, 2), changes
    return counts


def main() -> None:
    words = argparse.ArgumentParser()
    words.add_argument("jobs", nargs="*")
    words.add_argument("--tries", type=int, default=20)
    words.add_argument("--seed", type=int, default=0)
    given = words.parse_args()
    try_all(given.jobs or JOBS, lambda name: try_job(name, given.tries, given.seed))


if __name__ == "__main__":
    main()

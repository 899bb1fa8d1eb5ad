"""Ten of the same command at once on one output, and a worker that dies: whole results, and words.

python tests/faults/crowds.py [COMMAND …]   prints the counts as JSON

Each command may succeed or be refused in one sentence; at the end the output is that of one alone.
"""

import argparse
import os
import shutil
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

from faults.forks import forked
from faults.jobs import FIRST, JOBS, OVER, try_all

CROWD = 10
NOT_TOGETHER = {"embed_npz", "embed_csv", "embed_parquet", "embed_safetensors"}  # as embed


def try_job(name: str, rounds: int) -> dict[str, Any]:
    counts: dict[str, Any] = {"commands": 0, "done": 0, "refused": 0, "faults": []}
    with tempfile.TemporaryDirectory() as made:
        top = Path(made)
        (top / "inputs").mkdir()
        work, compared = JOBS[name](top / "inputs")
        whole = top / "whole"
        whole.mkdir()
        code, _ = forked(lambda: work(whole, FIRST), top / "log")
        assert code == 0, (top / "log").read_text()
        wanted = compared(whole)
        for number in range(rounds):
            place, turn = top / f"{number}", (FIRST, OVER)[number % 2]
            place.mkdir()
            if turn == OVER:
                shutil.copytree(whole, place, dirs_exist_ok=True)
            logs = [top / f"{number}.{i}.log" for i in range(CROWD)]
            with ThreadPoolExecutor(CROWD) as pool:  # forks at once, each waited for
                codes = list(
                    pool.map(lambda log: forked(lambda: work(place, turn), log)[0], logs)  # noqa: B023
                )
            for code, log in zip(codes, logs, strict=True):
                said = log.read_text(errors="replace")
                counts["commands"] += 1
                counts["done"] += code == 0
                counts["refused"] += code in (1, 2)
                if (
                    code not in (0, 1, 2)
                    or "Traceback" in said
                    or said.count("error: ") != bool(code)
                ):
                    counts["faults"].append({"code": code, "turn": turn, "log": said[-1200:]})
            found = compared(place)
            if found != wanted or not any(code == 0 for code in codes):
                changed = [str(n) for n in wanted if found.get(n) != wanted[n]]
                more = [str(n) for n in found if n not in wanted]
                counts["faults"].append(
                    {"turn": turn, "changed": changed[:5], "more": more[:5], "codes": codes}
                )
    return counts


def main() -> None:
    words = argparse.ArgumentParser()
    words.add_argument("jobs", nargs="*")
    words.add_argument("--rounds", type=int, default=4)
    given = words.parse_args()
    together = [name for name in JOBS if name not in NOT_TOGETHER]
    try_all(given.jobs or together, lambda name: try_job(name, given.rounds))


if __name__ == "__main__":
    main()

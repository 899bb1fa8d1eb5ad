# ruff: noqa: T201
"""What the paper's parts do at a small scale: the same short run with one thing changed each time.

    python tests/benchmarks/paper_claims.py TRAIN VAL -o RUNS --config FILE.toml --max-steps 750

TRAIN and VAL: folders with classes. Each run sees the same number of images; printed: k-NN top-1 of
VAL after every epoch, and how the targets of the last steps look: entropy as a share of ln K (1:
uniform, 0: one point), spread in nats (entropy of the mean target minus their mean entropy), and
rank of the features. Runs that exist are gone on with, not made again. One thread, on the CPU.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from statistics import mean

CLAIMS = {
    "base": [],
    "no momentum teacher": ["--momentum-teacher", "0"],
    "no multi-crop": ["--local-crops-number", "0", "--global-crops-scale", "0.14", "1"],
    "no centring": ["--center-momentum", "1"],
    "no centring, no batch norm": ["--center-momentum", "1", "--no-use-bn-in-head"],
    "patch 8, larger views": ["--global-size", "64", "--local-size", "32"],
    "patch 16, larger views": [
        "--patch-size", "16", "--global-size", "64", "--local-size", "32",
    ],
    "ResNet-18": ["--arch", "resnet18"],
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("train", type=Path)
    parser.add_argument("val", type=Path)
    parser.add_argument("names", nargs="*", default=list(CLAIMS))
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--max-steps", type=int, help="of the schedules of all epochs")
    parser.add_argument("--config", type=Path, required=True, help="the recipe of the base")
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    print("| run | k-NN by epoch | entropy / ln K | spread | rank | seconds |")
    print("|---|---|---|---|---|---|")
    for name in arguments.names:
        run = arguments.output / name.replace(" ", "-").replace(",", "")
        seconds = train(run, arguments, CLAIMS[name])
        lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
        top1 = [f"{line['knn_top1']:.1f}" for line in lines if "knn_top1" in line]
        last = [line for line in lines if "step" in line][-10:]
        figures = (
            f"{mean(line[key] for line in last):.2f}"
            for key in ("entropy_share", "target_spread", "feature_rank")
        )
        print(f"| {name} | {' '.join(top1)} | {' | '.join(figures)} | {seconds:.0f} |", flush=True)


def train(run: Path, arguments: argparse.Namespace, changed: list[str]) -> float:
    """Seconds that the run took, or went on for."""
    words = [
        str(arguments.train),
        "--config",
        str(arguments.config),
        "--epochs",
        str(arguments.epochs),
    ]
    if arguments.max_steps:
        words += ["--max-steps", str(arguments.max_steps)]
    words += ["--eval-data", str(arguments.val), "--device", "cpu", "--workers", "1"]
    words += ["--watch", "0", "--keep-every", "0", "-o", str(run), *changed]
    if (run / "checkpoint.pt").exists():
        words = ["--resume", str(run)]
    started = time.monotonic()
    subprocess.run(
        [sys.executable, "-m", "dino_cli", "train", *words, "--quiet"],
        stdout=subprocess.DEVNULL,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=True,
    )
    return time.monotonic() - started


if __name__ == "__main__":
    main()

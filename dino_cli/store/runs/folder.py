"""The run folder of `dino train`: where everything lies, and its config.json.

RUN/config.json      what was asked for, resolved, and the architecture
RUN/log.jsonl        one JSON object per logged step and per epoch
RUN/checkpoint.pt    everything needed to go on; checkpoint.1.pt, … are the ones before it
RUN/teacher.safetensors   the backbone that the other commands read
RUN/teacher-best.safetensors   the same at the epoch of the best k-NN, with --eval-data
RUN/images.txt       the images, where they were listed on stdin
RUN/watch/           photos and their attention at each epoch, for `dino report`
"""

import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dino_cli.config.resolve import RUN_FORMAT
from dino_cli.store.writing.atomic import atomic_write

__all__ = ["RunFolder", "resume_command", "when_full"]


def when_full(run: Path) -> str:
    """What to do when the disk of a run is full."""
    return f"make room and go on with: {resume_command(run)}"


def resume_command(run: Path | str) -> str:
    """The command that goes on with a run, as a shell takes it."""
    return shlex.join(["dino", "train", "--resume", str(run)])


class RunFolder:
    """Paths of one run; `config.resolve.read_run` reads its configuration. Only rank 0 writes."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = path / "config.json"
        self.log = path / "log.jsonl"
        self.checkpoint = path / "checkpoint.pt"
        self.teacher = path / "teacher.safetensors"
        self.best = path / "teacher-best.safetensors"
        self.images = path / "images.txt"
        self.watch = path / "watch"

    def write_config(self, values: Mapping[str, Any]) -> None:
        """config.json: `format`, `architecture`, `preprocessing`, `attention_size`, `train`."""
        with atomic_write(self.config) as temporary:
            temporary.write_text(json.dumps({"format": RUN_FORMAT, **values}, indent=2) + "\n")

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

from dino_cli.errors import TaskError
from dino_cli.store.writing.atomic import atomic_write

__all__ = ["RunFolder", "resume_command", "when_full"]

FORMAT = 1


def when_full(run: Path) -> str:
    """What to do when the disk of a run is full."""
    return f"make room and go on with: {resume_command(run)}"


def resume_command(run: Path | str) -> str:
    """The command that goes on with a run, as a shell takes it."""
    return shlex.join(["dino", "train", "--resume", str(run)])


class RunFolder:
    """Paths of one run, and its configuration. Only rank 0 writes."""

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
            temporary.write_text(json.dumps({"format": FORMAT, **values}, indent=2) + "\n")

    def read_config(self) -> dict[str, Any]:
        """Raises `TaskError` when there is no run, or a damaged one."""
        if not self.config.is_file():
            here = self.path.exists()
            why = "is not a run folder: it has no config.json" if here else "does not exist"
            raise TaskError(
                f"{self.path} {why}",
                "give the folder that `dino train -o` made",
            )
        try:
            values = json.loads(self.config.read_text())
            if values["format"] != FORMAT or not isinstance(values["train"], dict):
                raise ValueError
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            raise TaskError(
                f"{self.config} is not the configuration of a run", "restore it or start anew"
            ) from None
        return dict(values)

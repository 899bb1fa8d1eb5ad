"""The run folder of `dino train`: configuration, log, checkpoint, and the teacher for others.

RUN/config.json      what was asked for, resolved, and the architecture
RUN/log.jsonl        one JSON object per logged step and per epoch
RUN/checkpoint.pt    everything needed to go on
RUN/teacher.safetensors   the backbone that the other commands read
"""

import json
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TextIO

import torch
from safetensors.torch import save_file
from torch import Tensor

from dino_cli.errors import TaskError
from dino_cli.store.atomic import atomic_write

__all__ = ["Log", "RunFolder"]

FORMAT = 1


class RunFolder:
    """Paths and writers of one run. Only rank 0 writes."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = path / "config.json"
        self.log = path / "log.jsonl"
        self.checkpoint = path / "checkpoint.pt"
        self.teacher = path / "teacher.safetensors"

    def write_config(self, values: Mapping[str, Any]) -> None:
        """config.json: `format`, `architecture`, `preprocessing`, `attention_size`, `train`."""
        with atomic_write(self.config) as temporary:
            temporary.write_text(json.dumps({"format": FORMAT, **values}, indent=2) + "\n")

    def read_config(self) -> dict[str, Any]:
        """Raises `TaskError` when there is no run, or a damaged one."""
        if not self.config.is_file():
            raise TaskError(
                f"{self.path} is not a run folder: it has no config.json",
                "give the folder that `dino train -o` made",
            )
        try:
            values = json.loads(self.config.read_text())
            if values["format"] != FORMAT or not isinstance(values["train"], dict):
                raise ValueError
        except (ValueError, KeyError, TypeError, UnicodeDecodeError):
            raise TaskError(
                f"{self.config} is not the configuration of a run", "restore it or start anew"
            ) from None
        return dict(values)

    def save_checkpoint(self, state: Mapping[str, Any], *, keep_as: str | None = None) -> None:
        """checkpoint.pt, atomically; with `keep_as` also a copy under that name."""
        for path in [self.path / keep_as] if keep_as else []:
            with atomic_write(path) as temporary:
                torch.save(dict(state), temporary)
        with atomic_write(self.checkpoint) as temporary:
            torch.save(dict(state), temporary)

    def load_checkpoint(self) -> dict[str, Any]:
        """The state, on the CPU. Runs no pickled code. `TaskError` when missing or damaged."""
        if not self.checkpoint.is_file():
            raise TaskError(
                f"{self.path} has no checkpoint.pt, so there is nothing to go on from",
                "start the run anew in another folder",
            )
        try:
            state = torch.load(self.checkpoint, map_location="cpu", weights_only=True)
            if state["format"] != FORMAT:
                raise KeyError("format")
        except (
            RuntimeError,
            pickle.UnpicklingError,
            EOFError,
            OSError,
            KeyError,
            ValueError,
            TypeError,
        ):
            raise TaskError(
                f"{self.checkpoint} is damaged or not a checkpoint of dino train",
                "copy one of the checkpoint-*.pt files of the same folder over it",
            ) from None
        return dict(state)

    def save_teacher(self, tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> None:
        """The teacher's backbone, float32, with its architecture in the header."""
        plain = {name: t.detach().cpu().contiguous() for name, t in tensors.items()}
        with atomic_write(self.teacher) as temporary:
            save_file(plain, temporary, metadata={"format": "pt", "dino": json.dumps(about)})


class Log:
    """log.jsonl, flushed per line. Opening it for a resumed run drops what came after the
    checkpoint, so that each step stands there once."""

    def __init__(self, path: Path, *, resume_step: int, steps_per_epoch: int) -> None:
        kept = []
        if path.exists():
            for line in path.read_text().splitlines():
                try:
                    entry = json.loads(line)
                except ValueError:
                    continue  # the last line of a process that was killed
                if "step" in entry:
                    keep = entry["step"] < resume_step
                else:
                    keep = (entry["epoch"] + 1) * steps_per_epoch <= resume_step
                if keep:
                    kept.append(line)
        with atomic_write(path) as temporary:
            temporary.write_text("".join(line + "\n" for line in kept))
        self._path = path
        self._file: TextIO = path.open("a")

    def write(self, entry: Mapping[str, Any]) -> None:
        """Raises `TaskError` when the disk is full."""
        try:
            self._file.write(json.dumps(entry) + "\n")
            self._file.flush()
        except OSError as error:
            raise TaskError(
                f"cannot write {self._path} ({error.strerror})",
                f"make room and go on with: dino train --resume {self._path.parent}",
            ) from None

    def close(self) -> None:
        self._file.close()

    @staticmethod
    def read(path: Path) -> list[dict[str, Any]]:
        """All whole lines of a log, in order."""
        entries = []
        for line in path.read_text().splitlines() if path.exists() else []:
            try:
                entries.append(json.loads(line))
            except ValueError:
                continue
        return entries

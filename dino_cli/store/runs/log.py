"""log.jsonl of a training run: one object per logged step and per epoch."""

import json
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, TextIO

from dino_cli.errors import TaskError
from dino_cli.store.runs.folder import when_full
from dino_cli.store.writing.atomic import atomic_write
from dino_cli.store.writing.targets import explain_errors

__all__ = ["Log"]


def _is_entry(entry: Mapping[str, Any]) -> bool:
    """Whether a line is of a step or of an epoch, and its figures are numbers."""
    counts = [entry[key] for key in ("step", "epoch") if key in entry]
    good = all(type(count) is int and 0 <= count < 2**53 for count in counts)
    figures = all(
        isinstance(value, float | None) or (isinstance(value, int) and abs(value) < 2**53)
        for value in entry.values()
    )
    return bool(counts) and good and figures and ("step" not in entry or "loss" in entry)


class Log:
    """log.jsonl, flushed per line. Opening it for a resumed run drops what came after the
    checkpoint, so that each step stands there once."""

    def __init__(self, path: Path, *, resume_step: int, steps_per_epoch: int) -> None:
        kept = []
        for entry in self.read(path):
            if "step" in entry:
                keep = entry["step"] < resume_step
            else:
                keep = (entry["epoch"] + 1) * steps_per_epoch <= resume_step
            if keep:
                kept.append(json.dumps(entry) + "\n")
        self._path = path
        with self._explained():
            with atomic_write(path) as temporary:
                temporary.write_text("".join(kept))
            self._file: TextIO = path.open("a")

    def write(self, entry: Mapping[str, Any]) -> None:
        """Raises `TaskError` when the disk is full."""
        with self._explained():
            self._file.write(json.dumps(entry) + "\n")
            self._file.flush()

    def close(self) -> None:
        self._file.close()

    @staticmethod
    def read(path: Path) -> list[dict[str, Any]]:
        """All whole lines of a log, in order; a process that was killed may have left half a one.

        Raises `TaskError` when the file cannot be read.
        """
        try:
            lines = path.read_text(errors="replace").splitlines() if path.exists() else []
        except OSError as error:
            raise TaskError(f"cannot read {path} ({error.strerror})", "check the path") from None
        entries = []
        for line in lines:
            try:
                entry = json.loads(line)
            except (ValueError, RecursionError):
                continue
            if isinstance(entry, dict) and _is_entry(entry):
                entries.append(entry)
        return entries

    def _explained(self) -> AbstractContextManager[None]:
        return explain_errors(self._path, when_full(self._path.parent))

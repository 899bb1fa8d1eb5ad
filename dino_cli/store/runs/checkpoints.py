"""Checkpoints of a run: written in the background, the last few kept, the newest good one found."""

import json
import pickle
import re
import shutil
import threading
import zipfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dino_cli.errors import TaskError
from dino_cli.store.runs.folder import RunFolder, when_full
from dino_cli.store.weights.tensor_files import lasting_name
from dino_cli.store.writing.atomic import atomic_write
from dino_cli.store.writing.targets import explain_errors
from dino_cli.store.writing.tensors import save_state, save_tensors

__all__ = [
    "FORMAT",
    "CheckpointWriter",
    "find_checkpoint",
    "load_checkpoint",
    "save_teacher",
    "stand_in",
]

FORMAT = 1


class CheckpointWriter:
    """Writes teacher.safetensors and checkpoint.pt in a thread, from a copy in host memory.

    `save` returns as soon as the copy is made; one write goes on at a time. A write that failed is
    raised by the next call of any method. Use as a context manager: leaving it waits for the last
    write.
    """

    def __init__(self, folder: RunFolder, *, keep: int) -> None:
        self.folder, self.keep = folder, keep
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def __enter__(self) -> "CheckpointWriter":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None or not issubclass(kind, KeyboardInterrupt):  # which means at once
            self._wait()
            if kind is None:
                self.check()

    def save(
        self,
        state: Mapping[str, Any],
        teacher: Mapping[str, Tensor],
        about: Mapping[str, Any],
        *,
        keep_as: str | None = None,
        best: bool = False,
    ) -> None:
        """Start writing this state; with `keep_as` also under that name, for good.

        state: what `load_checkpoint` shall return. teacher: tensors of teacher.safetensors, and
        when it is the best so far of teacher-best.safetensors; about: their header. Raises
        `TaskError` when the write before this one failed.
        """
        self.flush()
        state, teacher = _on_host(dict(state)), _on_host(dict(teacher))
        self._thread = threading.Thread(
            target=self._write, args=(state, teacher, about, keep_as, best), daemon=True
        )
        self._thread.start()

    def flush(self) -> None:
        """Wait until what was asked for is on disk."""
        self._wait()
        self.check()

    def check(self) -> None:
        """Raise `TaskError` if a write failed; does not wait."""
        error, self._error = self._error, None
        if error is None:
            return
        reason = getattr(error, "strerror", None) or str(error).strip() or type(error).__name__
        raise TaskError(
            f"cannot write the checkpoint to {self.folder.path} ({reason.splitlines()[0]})",
            when_full(self.folder.path),
        ) from None

    def _wait(self) -> None:
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _write(
        self,
        state: Mapping[str, Any],
        teacher: Mapping[str, Tensor],
        about: Mapping[str, Any],
        keep_as: str | None,
        best: bool,
    ) -> None:
        try:
            # The checkpoint comes last: a run killed before that repeats these steps and writes all
            # of them once more; after it, nothing would.
            save_teacher(self.folder.teacher, teacher, about)
            if best:
                save_teacher(self.folder.best, teacher, about)
            with atomic_write(self.folder.checkpoint) as temporary:
                save_state(temporary, state)
                if keep_as:
                    _link(self.folder.path / keep_as, temporary)
                self._rotate()
        except Exception as error:  # told by the thread that trains
            self._error = error

    def _rotate(self) -> None:
        """checkpoint.pt also becomes checkpoint.1.pt, that .2.pt, …; `keep` of them stay."""
        names = [self.folder.checkpoint]
        names += [self.folder.path / f"checkpoint.{i}.pt" for i in range(1, self.keep)]
        for older, newer in zip(reversed(names[1:]), reversed(names[:-1]), strict=True):
            if newer is not self.folder.checkpoint:
                with suppress(FileNotFoundError):
                    newer.replace(older)
            elif newer.exists():
                older.unlink(missing_ok=True)
                try:
                    older.hardlink_to(newer)  # so that checkpoint.pt is there at every instant
                except OSError:  # a file system without links: the rename has a gap, told by find
                    newer.replace(older)
        for path in self.folder.path.glob("checkpoint.*.pt"):
            if _turn(path) >= self.keep:
                path.unlink(missing_ok=True)


def stand_in(folder: RunFolder, checkpoint: Path) -> None:
    """Put a whole checkpoint in the place of a damaged checkpoint.pt.

    The next save would else put the damaged one in the place of the one before it, which is the
    last that is whole. Raises `TaskError` where that cannot be written.
    """
    if checkpoint != folder.checkpoint:
        with explain_errors(folder.path, "make it writable"):
            _link(folder.checkpoint, checkpoint)


def _link(path: Path, existing: Path) -> None:
    """Another name for the same file; where there are no links, another file."""
    with atomic_write(path) as temporary:
        temporary.unlink()
        try:
            temporary.hardlink_to(existing)
        except OSError:
            shutil.copyfile(existing, temporary)


def save_teacher(path: Path, tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> None:
    """The backbone alone, as safetensors with its architecture in the header."""
    with atomic_write(path) as temporary:
        header = {"format": "pt", "dino": json.dumps(about)}
        save_tensors(temporary, tensors, header)


def _on_host(value: Any) -> Any:
    """A copy in host memory, which training cannot change any more; each storage once."""
    if isinstance(value, Tensor):
        return value.detach().to("cpu", copy=True).contiguous()
    if isinstance(value, Mapping):
        return {key: _on_host(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_on_host(item) for item in value)
    return value


def find_checkpoint(folder: RunFolder, tell: Callable[[str], None]) -> Path | None:
    """The newest checkpoint that is whole; None for a run that has none. Reads it to the end.

    tell: gets one sentence about each damaged one passed over. Raises `TaskError` when there are
    checkpoints, and all are damaged.
    """
    kept = sorted(folder.path.glob("checkpoint-[0-9]*.pt"), reverse=True)
    rotated = sorted(folder.path.glob("checkpoint.[0-9]*.pt"), key=_turn)
    rotated = [path for path in rotated if _turn(path) > 0]
    candidates = [path for path in (folder.checkpoint, *rotated, *kept) if path.is_file()]
    for path in candidates:
        if _is_whole(path):
            return path
        tell(f"{path} is damaged; trying the one before it")
    if candidates:
        raise TaskError(
            f"all {len(candidates)} checkpoints in {folder.path} are damaged, or none of them is "
            "of dino train",
            "restore one from a backup, or start the run anew in another folder",
        )
    return None


def _turn(path: Path) -> int:
    """2 of checkpoint.2.pt; 0 of what people have named otherwise."""
    named = re.fullmatch(r"checkpoint\.([0-9]{1,9})\.pt", path.name)
    return int(named[1]) if named else 0


def _is_whole(path: Path) -> bool:
    """Whether every member has its checksum: torch itself does not look when it loads."""
    try:
        with zipfile.ZipFile(path) as archive:
            if archive.testzip() is not None:
                return False
        load_checkpoint(path, mmap=True)
    except Exception:  # a damaged archive ends in any exception whatever
        return False
    return True


def load_checkpoint(path: Path, *, mmap: bool = False) -> dict[str, Any]:
    """The state, on the CPU. Runs no pickled code. `TaskError` when missing or damaged."""
    try:
        with lasting_name(path) as lasting:
            state = torch.load(lasting, map_location="cpu", weights_only=True, mmap=mmap)
        if state["format"] != FORMAT or not isinstance(state["step"], int):
            raise KeyError("format")
    except (
        RuntimeError,
        pickle.UnpicklingError,
        EOFError,
        OSError,
        KeyError,
        ValueError,
        TypeError,
        AttributeError,
    ):
        raise TaskError(
            f"{path} is damaged or not a checkpoint of dino train", "use another one"
        ) from None
    return dict(state)

"""What an export has done so far: a folder of blocks beside the output, until it is whole.

`feats.npy.part/` holds `run.json` (what is being made of what), a file for each block of pictures
that is done, and at the end the finished files on their way to their places. Every file appears
whole or not at all, so that the folder is right after a kill at any instant. Several processes may
add blocks.
"""

import json
import os
import re
import shutil
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dino_cli.errors import TaskError
from dino_cli.store.embeddings.facts import made_differently
from dino_cli.store.writing.atomic import atomic_write, sync_to_disk
from dino_cli.store.writing.targets import explain_errors

__all__ = ["Blocks", "FeatureBlock", "Row"]

RUN, READY, FINISHED = "run.json", "ready.json", "finished"
FORMAT = 1
BLOCK = re.compile(r"[0-9]{8,15}\.npz")


@dataclass(frozen=True, slots=True)
class Row:
    """What belongs to one picture besides its features: path (POSIX), label ("" where unknown),
    the SHA-256 of its file ("" where unknown)."""

    path: str
    label: str
    sha256: str = ""


@dataclass(frozen=True)
class FeatureBlock:
    """Some rows that follow each other; features are read when asked for."""

    file: Path

    @property
    def rows(self) -> list[Row]:
        return [Row(*row) for row in self._facts()["rows"]]

    @property
    def skipped(self) -> list[tuple[str, str]]:
        """(path, reason) of the unreadable files among the block's."""
        return [(path, reason) for path, reason in self._facts()["skipped"]]

    @property
    def folder(self) -> str:
        """Where the names of the pictures lead from."""
        return str(self._facts().get("folder", ""))

    @property
    def shapes(self) -> dict[str, tuple[tuple[int, ...], str]]:
        """Of each kind of features: the shape of one row, and the type; empty without rows."""
        return {kind: (tuple(shape), dtype) for kind, (shape, dtype) in self._facts()["shapes"]}

    def array(self, kind: str) -> NDArray[Any]:
        """Features of one kind, one row for each of `rows`."""
        with np.load(self.file, allow_pickle=False) as content:
            return np.asarray(content[f"features/{kind}"])

    def thumbnails(self) -> list[bytes]:
        """JPEG files of the rows' pictures; empty where none were made."""
        with np.load(self.file, allow_pickle=False) as content:
            joined, ends = content["thumbnails"].tobytes(), content["ends"].tolist()
        return [joined[a:b] for a, b in zip([0, *ends[:-1]], ends, strict=True)] if ends else []

    def is_whole(self) -> bool:
        """Whether every member has its checksum and the facts fit the features; reads it all."""
        try:
            with zipfile.ZipFile(self.file) as archive:
                if archive.testzip() is not None:
                    return False
            rows = self.rows
            texts = [text for row in rows for text in (row.path, row.label, row.sha256)]
            texts += [text for pair in self.skipped for text in pair]
            return all(isinstance(text, str) for text in texts) and all(
                self.array(kind).shape == (len(rows), *shape)
                for kind, (shape, _) in self.shapes.items()
            )
        except Exception:  # a damaged archive ends in any exception whatever
            return False

    def _facts(self) -> dict[str, Any]:
        with np.load(self.file, allow_pickle=False) as content:
            facts: dict[str, Any] = json.loads(content["facts"].tobytes())
        return facts


class Blocks:
    """The folder of one export. size: pictures in a block, all but the last; files: in all;
    resumed: it was there before; replaces: the output may stand there already."""

    def __init__(self, output: Path) -> None:
        self.output = output
        self.folder = output.with_name(output.name + ".part")
        self.size = self.files = 0
        self.resumed = self.replaces = False

    def exists(self) -> bool:
        return (self.folder / RUN).is_file()

    def check_free(self) -> None:
        """Raises `TaskError` when the folder's name is taken by something of another kind."""
        if self.folder.exists() and not self.folder.is_dir():
            raise self._foreign()
        if self.folder.is_dir():
            names = {path.name for path in self.folder.iterdir()}
            if not names & {RUN, READY} and any(not name.startswith(".") for name in names):
                raise self._foreign()

    def start(
        self, run: Mapping[str, Any], size: int, files: int, *, replaces: bool = False
    ) -> None:
        """Begin anew; what an earlier run left is removed."""
        self.size, self.files, self.replaces = size, files, replaces  # first: from here on ours
        with explain_errors(self.output):
            self.remove()
            self.folder.mkdir()
            values: dict[str, Any] = {"format": FORMAT, "size": size, "files": files}
            values |= {"replaces": replaces, "run": dict(run)}
            with atomic_write(self.folder / RUN) as temporary:
                temporary.write_text(json.dumps(values, indent=2) + "\n", encoding="ascii")

    def open(self, run: Mapping[str, Any]) -> int:
        """Go on with what is there. Raises `TaskError` when it was made in another way.

        Blocks that are damaged are removed, to be made again; returns how many.
        """
        values = self._run()
        if different := made_differently(values["run"], json.loads(json.dumps(dict(run)))):
            other = different.key == "inputs"
            what = "other input files (or some of them changed since)" if other else different
            raise TaskError(
                f"the interrupted run in {str(self.folder)!r} was made with {what}",
                "give the same options and files as then, or --overwrite to start again",
            )
        self.size, self.files = int(values["size"]), int(values["files"])
        self.resumed, self.replaces = True, bool(values.get("replaces"))
        wanted_blocks = range(self.count)
        bad = [n for n in self.done() if n not in wanted_blocks or not self.block(n).is_whole()]
        self.drop(bad)
        return len(bad)

    def drop(self, numbers: Iterable[int]) -> None:
        """Remove blocks, to be made again."""
        with explain_errors(self.output):
            for number in numbers:
                self.file(number).unlink(missing_ok=True)

    def file(self, number: int) -> Path:
        """Where a block is, or will be."""
        return self.folder / f"{number:08d}.npz"

    def block(self, number: int) -> FeatureBlock:
        """One that is done."""
        return FeatureBlock(self.file(number))

    def _run(self) -> dict[str, Any]:
        try:
            values: dict[str, Any] = json.loads((self.folder / RUN).read_text())
            counts = int(values["size"]), int(values["files"])
            if values["format"] == FORMAT and isinstance(values["run"], dict) and min(counts) > 0:
                return values
        except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError):
            pass
        raise self._foreign()

    @property
    def count(self) -> int:
        """How many blocks make the whole."""
        return -(-self.files // self.size) if self.size else 0

    def span(self, number: int) -> range:
        """Positions of a block's files among all."""
        return range(number * self.size, min((number + 1) * self.size, self.files))

    def done(self) -> list[int]:
        """Numbers of the blocks that are there, in order."""
        with suppress(FileNotFoundError):
            names = os.listdir(self.folder)
            return sorted(int(n[:-4]) for n in names if BLOCK.fullmatch(n))
        return []

    def __iter__(self) -> Iterator[FeatureBlock]:
        return (self.block(number) for number in self.done())

    def write(
        self,
        number: int,
        arrays: Mapping[str, Sequence[NDArray[Any]]],
        rows: Sequence[Row],
        skipped: Sequence[tuple[str, str]],
        thumbnails: Sequence[bytes],
    ) -> None:
        """Put a block where it belongs. arrays: pieces of each kind of features, in order."""
        joined = {kind: np.concatenate(pieces) for kind, pieces in arrays.items() if pieces}
        facts = {
            "rows": [[row.path, row.label, row.sha256] for row in rows],
            "skipped": [list(pair) for pair in skipped],
            "folder": os.getcwd(),
            "shapes": [[k, [list(a.shape[1:]), a.dtype.str]] for k, a in joined.items()],
        }
        content = {f"features/{kind}": array for kind, array in joined.items()}
        content["facts"] = np.frombuffer(json.dumps(facts).encode("ascii"), np.uint8)
        content["thumbnails"] = np.frombuffer(b"".join(thumbnails), np.uint8)
        content["ends"] = np.cumsum([len(t) for t in thumbnails], dtype=np.int64)
        with (
            explain_errors(self.output),
            atomic_write(self.file(number)) as temporary,
            temporary.open("wb") as file,
        ):
            np.savez(file, allow_pickle=False, **content)

    def finished(self) -> Path:
        """An empty folder for the finished files."""
        folder = self.folder / FINISHED
        with explain_errors(self.output):
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
        return folder

    def publish(self, stale: Sequence[Path] = ()) -> None:
        """Move the finished files to their places; those of `stale` that are not among them go.

        From the first move on nothing but the end is left to reach: what kills it here is made good
        by `recover`.
        """
        folder = self.folder / FINISHED
        with explain_errors(self.output):
            for path in folder.iterdir():
                sync_to_disk(path)
            new = {path.name for path in folder.iterdir()}
            old = [path.name for path in stale if path.name not in new]
            with atomic_write(self.folder / READY) as temporary:
                temporary.write_text(json.dumps(old))
        self.recover()

    @property
    def publishing(self) -> bool:
        """Whether finished files are on their way to their places."""
        return (self.folder / READY).is_file()

    def recover(self) -> bool:
        """End a `publish` that was begun; whether there was one."""
        if not self.publishing:
            return False
        folder, parent = self.folder / FINISHED, self.output.parent
        try:
            for name in self._stale():
                (parent / name).unlink(missing_ok=True)
            moving = sorted(folder.iterdir()) if folder.is_dir() else []
            # The output itself comes last: where it is, all is there.
            for path in sorted(moving, key=lambda p: p.name == self.output.name):
                path.replace(parent / path.name)
            sync_to_disk(parent)
        except OSError as error:
            raise TaskError(
                f"cannot put {str(self.output)!r} in its place ({error.strerror or error}); it is"
                f" whole in {str(folder)!r}",
                "make that possible, then the same command with --resume does it",
            ) from None
        with suppress(OSError, TaskError):  # the next command tries again
            self.remove()
        return True

    def _stale(self) -> list[str]:
        """Names beside the output that go; never a path elsewhere, whatever the file says."""
        try:
            names = json.loads((self.folder / READY).read_text())
            texts = [name for name in names if isinstance(name, str) and name != ".."]
            return [name for name in texts if name and Path(name).name == name]
        except (OSError, ValueError, TypeError, RecursionError):
            return []

    def remove(self) -> None:
        """Remove the folder, what tells its state last. Raises `TaskError` when it is not ours."""
        self.check_free()
        if not self.folder.is_dir():
            return
        for path in self.folder.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            elif path.name not in (RUN, READY):
                path.unlink(missing_ok=True)
        for name in (RUN, READY):
            (self.folder / name).unlink(missing_ok=True)
        self.folder.rmdir()

    def _foreign(self) -> TaskError:
        return TaskError(
            f"{str(self.folder)!r} is no interrupted run of `dino embed`",
            "remove it, or use another --output",
        )

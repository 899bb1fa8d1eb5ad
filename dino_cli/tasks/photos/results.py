"""What a run leaves of its inputs: a folder, a row and a card of each, and what was skipped."""

import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any

from dino_cli import __version__
from dino_cli.config.attention import AttentionConfig
from dino_cli.config.pca import PcaConfig
from dino_cli.config.values import counted
from dino_cli.data.listing.image_list import ImageFile
from dino_cli.errors import DinoError, Interrupted
from dino_cli.progress import Reporter
from dino_cli.store.pages import write_page
from dino_cli.store.writing.folders import ResultFolders, folder_names
from dino_cli.store.writing.tables import csv_table, read_skipped
from dino_cli.store.writing.targets import check_free, explain_errors, is_read, keep_inputs
from dino_cli.tasks.photos.reading import UnreadPhoto
from dino_cli.tasks.unreadable import cannot_read, nothing_read

__all__ = ["PAGE", "SIDE", "SKIPPED", "Results"]

PAGE, SKIPPED = "index.html", "skipped.csv"
MOST_CARDS = 400  # inputs on the page; of some 60 KB each
SIDE = 360  # pixels of a picture on the page


class Results:
    """What a run has made so far; `write`, `writing` and `wants_card` may be called in any thread.

    inputs: in the person's order, which numbers them; everything has that order, whatever order
    they were finished in. own: names of the files of one input's folder; shared: of the files that
    inputs share; folders: whether there are folders at all.
    """

    def __init__(
        self,
        config: AttentionConfig | PcaConfig,
        inputs: Sequence[ImageFile],
        own: re.Pattern[str],
        shared: Sequence[str],
        *,
        folders: bool = True,
    ) -> None:
        self.config, self.root, self.inputs, self.shared = config, config.output, inputs, shared
        self.folders = ResultFolders(self.root, own)
        below = [file.relative for file in inputs] if folders else []
        self.names = folder_names(below, reserved=[SKIPPED, *shared])
        self.rows: dict[int, dict[str, Any]] = {}
        self.cards: dict[int, dict[str, Any]] = {}
        self.unread: dict[int, list[tuple[str, str]]] = {}  # paths and reasons
        self.unfit: dict[int, DinoError] = {}
        files = [self.root / name for name in (SKIPPED, *shared)]
        self._new = [path for path in files if not path.exists()]

    def check(self) -> None:
        """Raises `TaskError` if folders of inputs, or shared files, cannot be written, or would
        replace an input."""
        check_free(self.root, self.shared, overwrite=self.config.overwrite)
        self.folders.check(self.names, overwrite=self.config.overwrite)
        weights = [self.config.weights] if self.config.weights else []
        paths = [file.path for file in self.inputs]
        keep_inputs([self.root / name for name in (SKIPPED, *self.shared)], [*weights, *paths])
        replaced = {os.path.abspath(self.root / name) for name in self.names}
        for path in paths:
            if os.path.dirname(os.path.abspath(path)) in replaced:
                raise is_read(path)

    def write(self, number: int, files: Mapping[str, bytes]) -> None:
        """The folder of an input."""
        self.folders.write(self.names[number], files)

    def writing(self, number: int) -> AbstractContextManager[Path]:
        """A hidden folder, which becomes the input's at the end."""
        return self.folders.writing(self.names[number])

    def wants_card(self, number: int) -> bool:
        """Whether there is a page, and this input is among those that it shows."""
        return PAGE in self.shared and number < MOST_CARDS

    def done(
        self,
        number: int,
        facts: Mapping[str, Any],
        name: str,
        views: Sequence[tuple[str, Any]],
        unread: Sequence[tuple[str, str]] = (),
    ) -> None:
        """An input is finished. facts: of its row; name, views: of its card, captions and pictures;
        of a video several frames, empty without a card. unread: pictures of a folder that gave no
        frame."""
        folder = str(self.root / self.names[number]) if self.names else None
        row = {"input": str(self.inputs[number].path), "folder": folder, **facts}
        self.rows[number] = row
        if views:
            self.cards[number] = {"name": name, "row": row, "views": views}
        if unread:
            self.unread[number] = list(unread)

    def skip(self, why: UnreadPhoto) -> None:
        """An input that cannot be read, or does not go with the options.

        Raises `TaskError`, or an error of the kind of `why.error`, when that ends the command.
        """
        path = self.inputs[why.index].path
        if why.error is not None:
            error = type(why.error)(f"{str(path)!r}: {why.error.what}", why.error.fix)
            self.unfit[why.index] = error
            if self.config.strict:
                raise error
        elif self.config.strict:
            raise cannot_read(str(path), why.reason)
        self.unread[why.index] = [(str(path), why.reason)]

    def told(self, reporter: Reporter) -> dict[str, Any]:
        """What the command prints of its inputs, after skipped.csv is written.

        Raises `TaskError` when no input could be read, and the first error of inputs that do not go
        with the options when these are all that could.
        """
        if not self.rows and self.unfit:
            raise self.unfit[min(self.unfit)]
        unread = self._list_skipped()
        if not self.rows:
            raise nothing_read(unread)
        if unread:
            are = counted(len(unread), "file was", "files were")
            why = "skipped" if self.unfit else "unreadable and skipped"
            reporter.remark(f"{are} {why}; see {self.root / SKIPPED}")
        return {
            "output": str(self.root),
            "images": [self.rows[number] for number in sorted(self.rows)],
            "skipped": len(unread),
            "skipped_list": str(self.root / SKIPPED) if unread else None,
        }

    def write_page(self, template: str, **values: Any) -> None:
        """The page with the cards. values: what the template wants beside."""
        cards = [self.cards[number] for number in sorted(self.cards)]
        shown = {"cards": cards, "total": len(self.rows), "version": __version__, **values}
        write_page(self.root / PAGE, template, {"title": f"dino {template}", **shown})

    @contextmanager
    def working(self, write_shared: Callable[[], None]) -> Iterator[None]:
        """The work goes on inside. After Ctrl-C the inputs that are done stay, `write_shared` makes
        what they share, and `Interrupted` is raised; after any other error nothing new is left."""
        try:
            with explain_errors(self.root):
                yield
        except KeyboardInterrupt:
            with explain_errors(self.root):
                write_shared()
                self._list_skipped()
            done = f"{len(self.rows)} of {len(self.inputs)} inputs are done and kept"
            raise Interrupted(f"interrupted: {done} in {str(self.root)!r}") from None
        except BaseException:
            self._discard()
            raise

    def _list_skipped(self) -> list[tuple[str, str]]:
        """Paths and reasons of what could not be read; in skipped.csv too if anything is done."""
        unread = [one for number in sorted(self.unread) for one in self.unread[number]]
        if self.rows:
            inputs = [row["input"] for row in self.rows.values()]
            _list_skipped(self.root / SKIPPED, inputs, unread)
        return unread

    def _discard(self) -> None:
        """Take back what was written and did not exist before."""
        for path in self._new:
            with suppress(OSError):
                path.unlink(missing_ok=True)
        self.folders.discard()


def _list_skipped(path: Path, read: Iterable[str], unread: Sequence[tuple[str, str]]) -> None:
    """Name unreadable files in `path`, with their reasons. Those of earlier runs stay listed, but
    for what was read now, by itself or as a frame of its folder; no file is left without a line."""
    now = {os.path.abspath(name) for name in read}
    listed = {
        p: why
        for p, why in read_skipped(path).items()
        if not now & {os.path.abspath(p), os.path.dirname(os.path.abspath(p))}
    }
    listed |= dict(unread)
    if not listed:
        path.unlink(missing_ok=True)
        return
    path.parent.mkdir(exist_ok=True)
    with csv_table(path, ("path", "reason")) as write:
        for row in listed.items():
            write(row)

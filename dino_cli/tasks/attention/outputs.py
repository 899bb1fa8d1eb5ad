"""Where results go: rows, one folder an input, the COCO files and the page that inputs share."""

import csv
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from dino_cli import __version__
from dino_cli.errors import DinoError
from dino_cli.progress import Reporter
from dino_cli.store.coco import CocoFile, Segmentation, coco_file
from dino_cli.store.pages import write_page
from dino_cli.store.pictures.attention import RESULT_NAMES
from dino_cli.store.writing.folders import ResultFolders
from dino_cli.store.writing.tables import csv_table
from dino_cli.store.writing.targets import check_free
from dino_cli.tasks.attention.draw import DrawnResults
from dino_cli.tasks.attention.gallery import MOST_CARDS, Tiles, card, gallery
from dino_cli.tasks.attention.plan import COCO_NAMES, AttentionPlan, AttentionRequest
from dino_cli.tasks.unreadable import cannot_read, nothing_read

__all__ = ["SKIPPED", "Outputs", "list_skipped", "outputs", "wants_card"]

SKIPPED = "skipped.csv"


class Outputs:
    """What a run has made so far. Methods are called from the main thread, `folders` from any.

    Inputs are numbered as the person named them, and every shared file has their order, whatever
    order they were finished in.
    """

    def __init__(self, root: Path, strict: bool, coco: Mapping[Segmentation, CocoFile]) -> None:
        self.root, self.strict, self.coco = root, strict, coco
        self.folders = ResultFolders(root, RESULT_NAMES)
        self.rows: dict[int, dict[str, Any]] = {}
        self.cards: dict[int, dict[str, Any]] = {}
        self.unread: dict[int, tuple[str, str]] = {}
        self.unfit: dict[int, DinoError] = {}
        self._new = [path for path in (root / SKIPPED,) if not path.exists()]

    def done(
        self, number: int, row: dict[str, Any], name: str, views: Sequence[tuple[str, Tiles]]
    ) -> None:
        """An input is finished. views: for the page, empty without one."""
        self.rows[number] = row
        if views:
            self.cards[number] = card(row, name, views)

    def annotate(
        self, number: tuple[int, int], image: Mapping[str, Any], drawn: DrawnResults
    ) -> None:
        """The COCO entries of a photo, or of a frame (the second number)."""
        for kind, annotations in drawn.annotations.items():
            self.coco[kind].add(number, image, annotations)

    def skip(self, number: int, path: Path, reason: str, error: DinoError | None = None) -> None:
        """An input that cannot be read, or (error) does not go with the options.

        Raises `TaskError`, or an error of the kind of `error`, when that ends the command.
        """
        if error is not None:
            self.unfit[number] = type(error)(f"{str(path)!r}: {error.what}", error.fix)
            if self.strict:
                raise self.unfit[number]
        elif self.strict:
            raise cannot_read(str(path), reason)
        self.unread[number] = (str(path), reason)

    def write_shared(self, plan: AttentionPlan, videos: Sequence[Mapping[str, Any]]) -> None:
        """The COCO files and the page, of all that is done."""
        if not self.rows or not plan.asked.files:
            return
        for name in plan.asked.files:
            if not (self.root / name).exists():
                self._new.append(self.root / name)
        self.root.mkdir(exist_ok=True)
        header: dict[str, Any] = {
            "info": {
                "description": f"masks by dino attention --masks {plan.config.masks}",
                "version": __version__,
                **plan.model.identity,
            },
            "licenses": [],
            "categories": [
                {"id": number, "name": name, "supercategory": "attention"}
                for number, name in enumerate(plan.categories, 1)
            ],
            **({"videos": list(videos)} if videos else {}),
        }
        for kind, file in self.coco.items():
            file.write(self.root / COCO_NAMES[kind], header)
        if plan.asked.page:
            shown = [self.cards[number] for number in sorted(self.cards)]
            facts = {**plan.model.identity, "options": _options(plan)}
            values = gallery(shown, len(self.rows), facts)
            write_page(self.root / "index.html", "attention", values)

    def _shared(self) -> dict[str, str]:
        """The files that all inputs share, and what is in each."""
        shared = {
            str(self.root / COCO_NAMES[kind]): f"{file.masks} masks in {file.images} images"
            for kind, file in self.coco.items()
        }
        if self.cards:
            shared[str(self.root / "index.html")] = f"{len(self.cards)} inputs to look at"
        return shared

    def discard(self) -> None:
        """Take back what was written and did not exist before."""
        for path in self._new:
            with suppress(OSError):
                path.unlink(missing_ok=True)
        self.folders.discard()

    def result(self, reporter: Reporter) -> dict[str, Any]:
        """What the command prints. Raises `TaskError` when no input could be read, and the first
        error of inputs that do not go with the options when these are all that could."""
        if not self.rows and self.unfit:
            raise self.unfit[min(self.unfit)]
        if not self.rows:
            raise nothing_read(list(self.unread.values()))
        return {
            "output": str(self.root),
            "images": [self.rows[number] for number in sorted(self.rows)],
            "shared": self._shared(),
            "skipped": len(self.unread),
            "skipped_list": list_skipped(
                self.root,
                self.rows.values(),
                [self.unread[number] for number in sorted(self.unread)],
                reporter,
                readable=len(self.unfit),
            ),
        }


def list_skipped(
    root: Path,
    rows: Iterable[Mapping[str, Any]],
    unread: Iterable[tuple[str, str]],
    reporter: Reporter,
    *,
    readable: int = 0,
) -> str | None:
    """Name the unreadable files in ROOT/skipped.csv; those of earlier runs stay listed.

    rows: of inputs that were read now, with `input`; unread: paths and reasons; readable: how many
    of these were skipped for another reason. Gives the list's path when this run added to it.
    """
    path, unread = root / SKIPPED, list(unread)
    listed: dict[str, str] = {}
    if path.exists():
        with path.open(newline="", encoding="utf-8", errors="surrogateescape") as lines:
            listed = {r["path"]: r["reason"] for r in csv.DictReader(lines)}
    now = {os.path.abspath(row["input"]) for row in rows}
    listed = {p: why for p, why in listed.items() if os.path.abspath(p) not in now}
    listed |= dict(unread)
    if not listed:
        with suppress(FileNotFoundError):
            path.unlink()
        return None
    root.mkdir(exist_ok=True)
    with csv_table(path, ("path", "reason")) as write:
        for row in listed.items():
            write(row)
    if not unread:
        return None
    are = "1 file was" if len(unread) == 1 else f"{len(unread)} files were"
    why = "skipped" if readable else "unreadable and skipped"
    reporter.remark(f"{are} {why}; see {path}")
    return str(path)


@contextmanager
def outputs(
    root: Path, asked: AttentionRequest, *, strict: bool, overwrite: bool
) -> Iterator[Outputs]:
    """Outputs below `root`, checked before any work. Raises `TaskError` if files are in the way."""
    if asked.files:
        check_free(root, asked.files, overwrite=overwrite)
    with ExitStack() as stack:
        coco = {kind: stack.enter_context(coco_file()) for kind in asked.coco}
        yield Outputs(root, strict, coco)


def wants_card(number: int) -> bool:
    """Whether this input is among those that the page shows."""
    return number < MOST_CARDS


def _options(plan: AttentionPlan) -> str:
    """What the person asked for, in words for the page."""
    c = plan.config
    said = [
        f"attention masks of --head {c.head}" if c.masks == "attention" else f"{c.masks} masks",
        "fitted to the photos' edges" if c.refine == "guided" else "as patches",
    ]
    if c.query is not None:
        said.append(f"asked by the patch at {c.query}")
    if c.layer != -1:
        said.append(f"block {c.layer}")
    return ", ".join(said)

"""Blocks of an earlier process, whose pictures have other names from where one goes on."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from dino_cli.config.embed import EmbedConfig
from dino_cli.data.listing.image_list import ImageFile
from dino_cli.store.embeddings.blocks import Blocks, FeatureBlock, Row
from dino_cli.tasks.embed.share import row_path

__all__ = ["block_as_found"]


def block_as_found(
    blocks: Blocks, number: int, files: Sequence[ImageFile], config: EmbedConfig
) -> FeatureBlock:
    """One that is done, its pictures named as they are found now: `photos/a.png` from one folder is
    `../photos/a.png` from another, and `/home/me/photos/a.png` as well."""
    given = blocks.block(number)
    folder, rows, skipped = given.folder, given.rows, given.skipped
    found = {os.path.abspath(files[i].path): files[i].path for i in blocks.span(number)}

    def now(name: str) -> Path:
        return found.get(os.path.abspath(os.path.join(folder, name)), Path(name))

    renamed = [replace(row, path=row_path(now(row.path), config)) for row in rows]
    missed = [(now(path).as_posix(), reason) for path, reason in skipped]
    same = renamed == rows and missed == skipped  # as where the same command goes on
    return given if same else _Renamed(given.file, renamed, missed)


@dataclass(frozen=True)
class _Renamed(FeatureBlock):
    named: list[Row]
    missed: list[tuple[str, str]]

    @property
    def rows(self) -> list[Row]:
        return self.named

    @property
    def skipped(self) -> list[tuple[str, str]]:
        return self.missed

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
    found = _Renamed(given.file, [files[i].path for i in blocks.span(number)], config)
    # Making names takes longer than reading them, and those of the same command are right.
    same = found.rows == given.rows and found.skipped == given.skipped
    return given if same else found


@dataclass(frozen=True)
class _Renamed(FeatureBlock):
    paths: Sequence[Path]
    config: EmbedConfig

    @property
    def rows(self) -> list[Row]:
        given = super().rows
        paths = self._found([row.path for row in given])
        names = [row_path(path, self.config) for path in paths]
        return [replace(row, path=name) for row, name in zip(given, names, strict=True)]

    @property
    def skipped(self) -> list[tuple[str, str]]:
        given = super().skipped
        paths = self._found([path for path, _ in given])
        return [(p.as_posix(), reason) for p, (_, reason) in zip(paths, given, strict=True)]

    def _found(self, names: Sequence[str]) -> list[Path]:
        """The paths of today, of names that the block has."""
        folder = self.folder
        found = {os.path.abspath(path): path for path in self.paths}
        keys = [os.path.abspath(os.path.join(folder, name)) for name in names]
        return [found.get(key, Path(name)) for key, name in zip(keys, names, strict=True)]

"""The pictures behind the rows of an export: feats.npy.sources, as `sha256sum` writes them."""

import re
from collections.abc import Iterable
from pathlib import Path

from dino_cli.errors import TaskError
from dino_cli.store.embeddings.blocks import Row

__all__ = ["read_sources", "sources_path", "write_sources"]

DIGEST = re.compile("[0-9a-f]{64}")


def sources_path(output: Path) -> Path:
    """feats.npy → feats.npy.sources: the pictures' SHA-256, in the form of `sha256sum`."""
    return output.with_name(output.name + ".sources")


def write_sources(output: Path, rows: Iterable[Row]) -> None:
    """Write the list beside an output."""
    path = sources_path(output)
    with path.open("w", encoding="utf-8", errors="surrogateescape", newline="") as file:
        for row in rows:
            name = row.path
            if "\n" in name or "\\" in name:  # as sha256sum escapes
                name = name.replace("\\", "\\\\").replace("\n", "\\n")
                file.write("\\")
            file.write(f"{row.sha256}  {name}\n")


def read_sources(output: Path, count: int) -> tuple[list[str], list[str]]:
    """The SHA-256 and the path of each row's picture, the path byte for byte, in any format.

    Raises `TaskError` where they are not told.
    """
    path = sources_path(output)
    try:
        with path.open(encoding="utf-8", errors="surrogateescape", newline="\n") as lines:
            found, names = [], []
            for line in lines:
                text = line.removeprefix("\\").removesuffix("\n")
                found.append(text[:64])
                names.append(_unescaped(text[66:]) if line.startswith("\\") else text[66:])
        if len(found) == count and all(map(DIGEST.fullmatch, found)):
            return found, names
        why = f"has {len(found)} lines for {count} rows"
        if len(found) == count:
            why = "holds lines without a SHA-256"
    except FileNotFoundError:
        why = "is missing"
    except OSError as error:
        why = f"cannot be read ({error.strerror})"
    raise TaskError(
        f"{str(path)!r}, which tells the pictures' content, {why}",
        "embed anew with --overwrite",
    )


def _unescaped(name: str) -> str:
    return re.sub(r"\\([\\n])", lambda found: "\n" if found[1] == "n" else "\\", name)

"""A map as a site of static files, by the exporter of Embedding Atlas.

https://apple.github.io/embedding-atlas
"""

import errno
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from importlib.util import find_spec
from itertools import islice
from pathlib import Path

from dino_cli.errors import TaskError
from dino_cli.store.embeddings.parquet import (
    GROUP,
    Projection,
    escape,
    projection_columns,
    projection_fields,
    require_pyarrow,
)
from dino_cli.store.writing.targets import ELSEWHERE

__all__ = ["SITE_FILES", "check_earlier", "export_site", "require_atlas", "write_table"]

SITE_FILES = ("index.html", "assets", "data", "duckdb-wasm")  # what an export consists of
SITE, SITE_DATA = re.compile("embedding.atlas", re.IGNORECASE), (".parquet", ".json")
LAST_LINE = 300  # characters of what the exporter said last


def require_atlas() -> None:
    """Raises `TaskError` with the way to get it when Embedding Atlas is not installed."""
    if find_spec("embedding_atlas") is None:
        raise TaskError(
            "a map to walk about in needs Embedding Atlas, which is not installed",
            "pip install 'dino-cli[atlas]', or make a picture with -o map.png",
        )


def check_earlier(folder: Path) -> None:
    """Raises `TaskError` where the files that an export replaces are of no earlier export."""
    present = [name for name in SITE_FILES if os.path.lexists(folder / name)]
    with suppress(OSError):
        page = (folder / "index.html").read_text(encoding="utf-8", errors="replace")
        if SITE.search(page):
            present = []
    with suppress(OSError):
        strange = [e.name for e in os.scandir(folder / "data") if not e.name.endswith(SITE_DATA)]
        present += [f"data/{name}" for name in sorted(strange)]
    if present:
        raise TaskError(
            f"{str(folder)!r} holds {present[0]!r}, which is of no earlier map, so it is not"
            " replaced",
            "choose another -o",
        )


def write_table(
    path: Path,
    paths: Sequence[str],
    labels: Sequence[str],
    projected: Projection,
    pictures: Iterator[bytes | None] | None,
) -> None:
    """The table of a site as .parquet: path, label where there are any, image (JPEG) unless None,
    x, y and neighbors. Rows of one group are in memory at a time."""
    pa = require_pyarrow()
    fields, labelled = [pa.field("path", pa.string())], any(labels)
    if labelled:
        fields.append(pa.field("label", pa.string()))
    image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    if pictures is not None:
        fields.append(pa.field("image", image))
    schema = pa.schema(fields + projection_fields(pa))
    with (
        path.open("wb") as file,  # by itself pyarrow takes names in UTF-8 only
        pa.parquet.ParquetWriter(file, schema, compression="zstd") as writer,
    ):
        for start in range(0, len(paths), GROUP):
            names = [escape(name) for name in paths[start : start + GROUP]]
            columns = [pa.array(names, pa.string())]
            if labelled:
                those = [escape(label) for label in labels[start : start + GROUP]]
                columns.append(pa.array(those, pa.string()))
            if pictures is not None:
                files = islice(pictures, len(names))
                cells = [
                    {"bytes": content, "path": Path(name).name} if content else None
                    for name, content in zip(names, files, strict=True)
                ]
                columns.append(pa.array(cells, image))
            columns += projection_columns(pa, projected, start, len(names))
            writer.write_batch(pa.RecordBatch.from_arrays(columns, schema=schema))


def export_site(
    table: Path, folder: Path, *, images: bool, neighbors: bool, labelled: bool
) -> None:
    """Run the exporter on a table of `write_table`, coloured by label where there are labels.

    Raises `TaskError` with its last line.
    """
    require_atlas()
    columns = {"neighbors": "neighbors"} if neighbors else {}
    columns |= {"image": "image"} if images else {}
    command = [sys.executable, "-m", "embedding_atlas.cli", table.name, "--x", "x", "--y", "y"]
    command += ["--disable-projection", "--query", "SELECT * EXCLUDE (FILE_NAME) FROM data"]
    for name, column in columns.items():
        command += [f"--{name}", column]
    shown: dict[str, object] = {"x": "x", "y": "y", **columns}
    shown |= {"importance": "pagerank"} if images and neighbors else {}
    shown |= {"category": "label"} if labelled else {}
    # Which charts the page begins with: the map, and how many there are of each label.
    charts = {"embedding": {"title": "Map", "data": shown}, "exclude": ["path", "pagerank"]}
    command += ["--export-metadata", json.dumps({"props": {"defaultChartsConfig": charts}})]
    command += ["--export-application", str(folder.absolute())]
    # It loads no model for such a table; should that change, it may not ask the network.
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        command,
        cwd=table.parent,
        capture_output=True,
        text=True,
        errors="replace",
        env=environment,
    )
    if done.returncode or not (folder / "index.html").is_file():
        said = (done.stderr.strip() or done.stdout.strip() or "no word").splitlines()[-1]
        full = os.strerror(errno.ENOSPC) in said
        raise TaskError(
            f"Embedding Atlas could not export the map ({said[:LAST_LINE]})",
            ELSEWHERE if full else "try another version of it: pip install -U embedding-atlas",
        )

"""What a site of Embedding Atlas is made of, and what is told when it cannot be made."""

from pathlib import Path

import numpy as np
import pytest

from dino_cli.errors import TaskError
from dino_cli.store.atlas import export_site, write_table
from dino_cli.store.embeddings.parquet import Projection


def projection(count: int) -> Projection:
    rng = np.random.default_rng(0)
    return Projection(
        rng.normal(size=(count, 2)).astype(np.float32),
        rng.integers(0, count, (count, 2)),
        rng.random((count, 2)).astype(np.float32),
    )


@pytest.mark.parametrize("labelled", [True, False])
def test_a_table_of_several_row_groups(tmp_path: Path, labelled: bool) -> None:
    pq = pytest.importorskip("pyarrow.parquet")
    count = 2100
    paths = [f"p/{i}.jpg" for i in range(count)]
    labels = [f"c{i % 7}" if labelled and i % 2 else "" for i in range(count)]
    projected = projection(count)
    pictures = (None if i % 9 == 0 else f"picture {i}".encode() for i in range(count))
    write_table(tmp_path / "t.parquet", paths, labels, projected, pictures)
    table = pq.read_table(tmp_path / "t.parquet")
    assert ("label" in table.column_names) == labelled
    rows = table.to_pylist()
    assert [row["path"] for row in rows] == paths
    assert [row.get("label", "") for row in rows] == labels
    for i in (0, 1, 1023, 1024, 2047, 2048, 2099):
        shown = {"bytes": f"picture {i}".encode(), "path": f"{i}.jpg"}
        assert rows[i]["image"] == (None if i % 9 == 0 else shown)
        assert [rows[i]["x"], rows[i]["y"]] == projected.places[i].tolist()
        assert rows[i]["neighbors"]["ids"] == projected.neighbors[i].tolist()
        assert rows[i]["neighbors"]["distances"] == projected.distances[i].tolist()
    write_table(tmp_path / "bare.parquet", paths, labels, projected, None)
    assert "image" not in pq.read_schema(tmp_path / "bare.parquet").names


@pytest.mark.parametrize(
    ("exporter", "said"),
    [
        ("print('only on stdout')\nsys.exit(3)", "only on stdout"),
        ("sys.exit('the first line\\nand the last')", "and the last"),
        ("sys.exit('x' * 5000)", "x" * 300),
        ("", "no word"),  # an end without a site
    ],
)
def test_what_the_exporter_said_last_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exporter: str, said: str
) -> None:
    package = tmp_path / "lib/embedding_atlas"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "cli.py").write_text(f"import sys\n{exporter}\n")
    monkeypatch.syspath_prepend(tmp_path / "lib")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "lib"))
    options = {"images": True, "neighbors": True, "labelled": True}
    with pytest.raises(TaskError) as told:
        export_site(tmp_path / "t.parquet", tmp_path, **options)
    assert told.value.what == f"Embedding Atlas could not export the map ({said})"
    assert told.value.fix.startswith("try another version of it")

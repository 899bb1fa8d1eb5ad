"""Properties that hold for any input, looked for by Hypothesis; oracles are written here."""

import csv
import math
import os
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from dino_cli.config.train import TrainConfig
from dino_cli.config.values import as_type, read_toml
from dino_cli.core.evaluation.neighbors import nearest
from dino_cli.core.masks.polygons import polygons
from dino_cli.core.masks.threshold import threshold_mass
from dino_cli.core.training.schedule import cosine_schedule
from dino_cli.data.listing.images import find_images
from dino_cli.errors import DinoError, TaskError, UsageError
from dino_cli.store.benchmarks.plain_pickle import read_plain_pickle
from dino_cli.store.coco import run_lengths
from dino_cli.store.embeddings.blocks import Row
from dino_cli.store.embeddings.sources import read_sources, sources_path
from dino_cli.store.embeddings.writing import write_export
from dino_cli.store.writing.folders import folder_names
from dino_cli.tasks.attention.plan import parse_heads

quick = settings(
    max_examples=int(os.environ.get("DINO_FAULT_EXAMPLES", "60")),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
# Names as they can lie on disk: any bytes but NUL and the slash.
names = st.binary(min_size=1, max_size=40).map(lambda b: b.replace(b"\0", b"_").replace(b"/", b"_"))
names = names.filter(lambda b: b not in (b".", b"..")).map(os.fsdecode)


@quick
@given(hnp.arrays(np.bool_, hnp.array_shapes(min_dims=2, max_dims=2, max_side=40)))
def test_run_lengths_come_back(mask):
    found = run_lengths(mask)
    assert found["size"] == list(mask.shape)
    counts, text = [], found["counts"].encode()
    at = 0
    while at < len(text):  # COCO's own reader, rleFrString
        value, shift, more = 0, 0, True
        while more:
            c = text[at] - 48
            value |= (c & 31) << shift
            more = bool(c & 32)
            at, shift = at + 1, shift + 5
            if not more and c & 16:
                value |= -1 << shift
        counts.append(value + counts[-2] if len(counts) > 2 else value)
    flat = np.concatenate([np.full(n, i % 2 == 1) for i, n in enumerate(counts)])
    assert np.array_equal(flat.reshape(mask.shape, order="F"), mask)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@quick
@given(hnp.arrays(np.bool_, hnp.array_shapes(min_dims=2, max_dims=2, max_side=20)))
def test_polygons_come_back(mask):
    coder = pytest.importorskip("pycocotools.mask")
    found = polygons(mask)
    if not mask.any():
        assert found == []
        return
    drawn = coder.decode(coder.merge(coder.frPyObjects(found, *mask.shape))).astype(bool)
    assert np.array_equal(drawn, mask)
    # Clockwise around parts and the other way around holes: signed areas add up to the pixels.
    rings = [np.array(ring).reshape(-1, 2).T for ring in found]
    areas = [(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2 for x, y in rings]
    assert sum(areas) == mask.sum()


@quick
@given(
    hnp.arrays(np.float32, (2, 3, 4), elements=st.floats(0, 1, width=32)),
    st.floats(0.01, 0.99),
)
def test_masks_keep_the_mass_with_the_fewest_patches(attention, share):
    attention = attention + np.float32(1e-3)
    kept = threshold_mass(torch.from_numpy(attention), share).numpy()
    for one, mask in zip(attention.reshape(2, -1).astype(float), kept.reshape(2, -1), strict=True):
        total, inside = one.sum(), np.sort(one[mask])
        assert inside.sum() >= share * total * (1 - 1e-5) - 1e-6
        assert mask.any()
        # Without the least of those that are kept (and what equals it) the share is not reached.
        least = inside[0]
        assert one[one > least].sum() <= share * total * (1 + 1e-5) + 1e-6


@quick
@given(st.integers(1, 12), st.integers(1, 30), st.integers(1, 6), st.data())
def test_neighbours_are_those_of_brute_force(queries, rows, width, data):
    seed = data.draw(st.integers(0, 2**31))
    k = data.draw(st.integers(1, rows))
    draw = np.random.default_rng(seed)
    q, x = (draw.integers(-3, 4, (n, width)).astype(np.float32) for n in (queries, rows))
    blocks = {
        "query_block": data.draw(st.integers(1, 8)),
        "index_block": data.draw(st.integers(1, 8)),
    }
    found = list(nearest(q, x, k, **blocks))
    similarities, places = (torch.cat(part).numpy() for part in zip(*found, strict=True))

    def unit(a):
        return a / np.maximum(np.linalg.norm(a, axis=1, keepdims=True), 1e-12)

    exact = unit(q.astype(float)) @ unit(x.astype(float)).T
    best = -np.sort(-exact, axis=1)[:, :k]
    assert np.allclose(similarities, best, atol=1e-5)
    assert np.allclose(np.take_along_axis(exact, places, 1), best, atol=1e-5)
    assert all(len(set(row)) == k for row in places.tolist())


@quick
@given(st.floats(0, 10), st.floats(0, 10), st.integers(0, 50), st.integers(0, 50))
def test_schedules_warm_up_and_fall(base, final, warmup, rest):
    found = cosine_schedule(base, final, warmup + rest, warmup_steps=warmup)
    assert len(found) == warmup + rest
    for i in range(warmup):
        wanted = base * i / (warmup - 1) if warmup > 1 else 0
        assert math.isclose(found[i], wanted, rel_tol=1e-9, abs_tol=1e-12)
    for i in range(rest):
        wanted = final + 0.5 * (base - final) * (1 + math.cos(math.pi * i / rest))
        assert math.isclose(found[warmup + i], wanted, rel_tol=1e-9, abs_tol=1e-12)


class Exported:
    """Rows of given names, as `write_export` takes them."""

    def __init__(self, rows):
        self.kept = rows
        self.count = len(rows)
        self.shapes = {"cls": ((2,), "<f4")}

    def arrays(self, kind):
        yield np.arange(2 * self.count, dtype=np.float32).reshape(-1, 2)

    def rows(self):
        return iter(self.kept)

    def thumbnails(self):
        return iter(())


@quick
@given(st.lists(st.tuples(names, names), min_size=1, max_size=5))
@pytest.mark.parametrize("suffix", [".npy", ".npz", ".safetensors", ".parquet", ".csv"])
def test_names_come_back_from_every_format(suffix, pairs):
    from dino_cli.store.embeddings.reading import read_embeddings

    if suffix == ".npz":  # NumPy's texts end at a NUL, and hold no more
        pairs = [(path.rstrip("\0"), label.rstrip("\0")) for path, label in pairs]
    rows = [Row(path, label, f"{i:064x}") for i, (path, label) in enumerate(pairs)]
    facts = {"features": "cls", "arrays": {"cls": {"shape": [2], "dtype": "<f4"}}}
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / f"feats{suffix}"
        write_export(Path(folder), output.name, Exported(rows), facts)
        found = read_embeddings(output)
        told = [path for path, _ in pairs]
        assert [path.removeprefix("./") for path in found.paths] == [
            p.removeprefix("./") for p in told
        ]
        if suffix not in (".npz", ".parquet"):  # what a spreadsheet opens
            assert all(path[0] not in "=+-@\t\r" for path in found.paths)
        assert found.labels == [label for _, label in pairs]
        assert found.features.shape == (len(pairs), 2)
        digests, paths = read_sources(output, len(pairs))
        assert digests == [row.sha256 for row in rows]
        assert paths == [row.path for row in rows]
        lines = sources_path(output).read_bytes().count(b"\n")
        assert lines == len(pairs)


@quick
@given(st.lists(names, min_size=1, max_size=8))
def test_result_folders_are_distinct_and_inside(found):
    chosen = folder_names([Path(name) for name in found])
    assert len({str(name) for name in chosen}) == len(found)
    for name in chosen:
        assert not name.is_absolute()
        assert ".." not in name.parts
        assert all(other not in name.parents for other in chosen)


@quick
@given(st.binary(max_size=300).map(lambda text: text.replace(b"\0", b"")))
def test_any_list_of_pictures_is_read_or_refused(content):
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "list.txt").write_bytes(content)
        try:
            files = find_images([f"{folder}/list.txt"])
        except DinoError as error:
            assert "\n" not in str(error)  # noqa: PT017
        else:
            assert len(list(files)) == len(files)


@quick
@given(st.binary(max_size=200) | st.text(max_size=200).map(lambda t: t.encode("utf-8", "replace")))
def test_any_toml_is_read_or_refused(content):
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "c.toml").write_bytes(content)
        try:
            values = read_toml(Path(folder) / "c.toml")
        except TaskError as error:
            assert str(error)  # noqa: PT017
        else:
            assert isinstance(values, dict)


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=6,
)


@quick
@given(anything)
def test_values_of_a_config_become_their_type_or_are_refused(value):
    from typing import get_type_hints

    for name, hint in get_type_hints(TrainConfig).items():
        try:
            as_type(value, hint, name, Path("c.toml"), "dino train")
        except UsageError as error:
            assert "c.toml" in str(error)  # noqa: PT017


@quick
@given(st.text(max_size=20))
def test_heads_are_numbers_or_refused(text):
    try:
        found = parse_heads(text)
    except UsageError:
        return
    assert found
    assert all(head in ("all", "mean", "best") or int(head) >= 0 for head in found)


@quick
@given(st.binary(max_size=200))
def test_any_pickle_is_plain_data_or_refused(content):
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "gnd.pkl").write_bytes(content)
        try:
            read_plain_pickle(Path(folder) / "gnd.pkl")
        except TaskError as error:
            assert "gnd.pkl" in str(error)  # noqa: PT017


def test_tables_of_csv_hold_names_of_any_bytes(tmp_path):
    from dino_cli.store.writing.tables import csv_table

    hostile = ["=1+1", "a\nb", 'a"b', "a,b", "\r", "🦕", os.fsdecode(b"\xff\xfe"), " x ", "\t"]
    with csv_table(tmp_path / "t.csv", ("name",)) as write:
        for name in hostile:
            write((name,))
    with (tmp_path / "t.csv").open(errors="surrogateescape", newline="", encoding="utf-8") as file:
        assert [row[0] for row in csv.reader(file)][1:] == hostile
    safe = ("./=1+1.png", "./-x.png", "./+x", "./@x", "./\t=x", "/=x")
    for column in ("path", "duplicate", "original", "query", "neighbor1", "neighbor12"):
        with csv_table(tmp_path / "t.csv", (column, "reason")) as write:
            for name in ("=1+1.png", "-x.png", "+x", "@x", "\t=x", "/=x"):
                write((name, "why"))
        lines = (tmp_path / "t.csv").read_text().splitlines()
        assert lines[1:] == [f"{n},why" for n in safe]

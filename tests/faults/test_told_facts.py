"""What files tell of themselves, of classes and of earlier results is believed where it can be."""

import io
import json
import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from feature_files import MADE, write_index
from in_process import dino, refusal
from safetensors.torch import save_file
from small_vit import photo, write_small_vit
from traced_memory import traced_memory

from dino_cli.config.values import difference, read_toml, shown
from dino_cli.core.evaluation.propagation import Propagation
from dino_cli.errors import TaskError
from dino_cli.progress import Reporter
from dino_cli.store.benchmarks.ground_truth import image_paths, read_ground_truth
from dino_cli.store.classifier import read_classifier
from dino_cli.store.embeddings.facts import are_facts, are_names
from dino_cli.store.embeddings.reading import read_embeddings
from dino_cli.tasks.projection import project
from dino_cli.tasks.provenance import recorded_kind

FACTS = {"format": 1, "features": "cls", "arrays": {"cls": {"shape": [4], "dtype": "<f4"}}}


def test_facts_of_features():
    good = {**FACTS, "videos": {"v.mp4": 25.0, "w.mp4": 0, "\udcff.mp4": 1}, "layer": 3}
    assert are_facts(good)
    assert are_facts({"format": 1})  # as other programs may write it
    kinds: list[Any] = ["a/b", "../../x", "x" * 5000, "a\0b", "\ud800", "", 1]
    wrong: list[Any] = [{"arrays": {"cls": 1, kind: 1}} for kind in kinds]
    wrong += [{"features": kind} for kind in (*kinds, [1], {"a": 1}, None)]
    wrong += [{"arrays": arrays} for arrays in (5, "cls", [[1]], ["cls"], True)]
    wrong += [{"videos": videos} for videos in (5, "ab", ["x"], [["a", 1]], {"\ud800": 1.0})]
    wrong += [{"videos": {"v": rate}} for rate in ("x", None, [1], -1, float("nan"), 10**400)]
    wrong += [{"layer": number} for number in ("x", None, [1], 1.0, True, -2, 10**30)]
    for change in [*wrong, {"format": 2}]:
        assert not are_facts({**FACTS, **change}), change
    assert not any(map(are_facts, (None, [], "x", 1)))
    assert not any(map(are_names, (["\ud800"], [1], [None])))


@pytest.mark.parametrize("arrays", [5, [[1]], {"cls": 1, "a/b": 1}])
def test_features_whose_json_tells_of_none(tmp_path, arrays):
    write_index(tmp_path / "f.npy", np.ones((2, 4)), ["a", "b"], arrays=arrays)
    said = refusal(1, "knn", "--index", tmp_path / "f.npy", "-k", 1)
    assert "f.npy' was not made by `dino`" in said


def _npz(path: Path, *, deflate: bool = False, **changes: Any) -> Path:
    """As `dino embed` writes it, with other arrays, or other bytes in their place."""
    arrays = {"cls": np.ones((2, 4), np.float32), "paths": np.array(["a.png", "b.png"])}
    arrays |= {"labels": np.array(["a", "b"]), "metadata": np.array(json.dumps(FACTS)), **changes}
    with zipfile.ZipFile(path, "w", 8 if deflate else 0) as archive:
        for name, array in arrays.items():
            content = array if isinstance(array, bytes) else _npy(array)
            archive.writestr(f"{name}.npy", content)
    return path


def _npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array(file, array, version=(1, 0))
    return file.getvalue()


def _no_texts(count: int) -> bytes:
    """A header that tells of texts without a character."""
    file = io.BytesIO()
    header = {"descr": "<U0", "fortran_order": False, "shape": (count,)}
    np.lib.format.write_array_header_1_0(file, header)
    return file.getvalue()


def test_an_npz_of_other_things(tmp_path):
    path = tmp_path / "f.npz"
    assert read_embeddings(_npz(path)).labels == ["a", "b"]
    vectors = np.random.default_rng(0).normal(size=(2, 4)).astype(np.float32)
    wrong: list[dict[str, Any]] = [
        *({"labels": one} for one in (np.arange(2), np.array(["\ud800", "b"]), np.array(["a"]))),
        *({"paths": one} for one in (np.arange(2.0), np.zeros((2, 2), "U1"), np.zeros(2, "S3"))),
        *({"cls": vectors.astype(kind)} for kind in ("V4", "c8", "i8")),
        {"cls": np.asfortranarray(vectors)},
        {"metadata": np.array(json.dumps({**FACTS, "videos": [1]}))},
        {"deflate": True},
    ]
    for change in wrong:
        with pytest.raises(TaskError, match="was not made by `dino embed`"):
            read_embeddings(_npz(path, **change))


@pytest.mark.parametrize("name", ["paths", "labels"])
def test_texts_that_take_no_bytes_take_no_memory(tmp_path, name):
    path = _npz(tmp_path / "f.npz", **{name: _no_texts(10**7)})
    with traced_memory() as memory, pytest.raises(TaskError):
        read_embeddings(path)
    assert memory.most < 10e6


@pytest.mark.parametrize(
    ("facts", "path"),
    [
        ({"videos": ["x"]}, "a"),
        ({}, 1),
        ({}, None),
        ({}, b"\xff"),
        ({"escaped": {"path": [9]}}, "a"),
    ],
)
def test_a_parquet_of_other_things(tmp_path, facts, path):
    pa = pytest.importorskip("pyarrow")
    vectors = pa.array([[1.0] * 4], pa.list_(pa.float32(), 4))

    def read(facts: object, path: object) -> list[str]:
        table = pa.table({"path": pa.array([path]), "label": ["b"], "vector": vectors})
        table = table.replace_schema_metadata({"dino": json.dumps(facts)})
        pytest.importorskip("pyarrow.parquet").write_table(table, tmp_path / "f.parquet")
        return read_embeddings(tmp_path / "f.parquet").paths

    assert read(FACTS, "a") == ["a"]
    with pytest.raises(TaskError, match="was not made by `dino embed`"):
        read({**FACTS, **facts}, path)


def test_features_that_are_no_vectors_are_not_searched_for():
    assert recorded_kind({}) == recorded_kind({"features": "cls"}) == "cls"
    assert {recorded_kind({"features": kind}) for kind in (-1, "patch", "x")} == {None}


def test_a_difference_that_is_a_key_without_a_value(tmp_path):
    one, more = {"p": {"a": 1}}, {"p": {"a": 1, "b": None}}
    assert difference(one, more) == difference(more, one) == ("b", None, None)
    told = {**MADE["preprocessing"], "more": None}
    for name, changes in (("f.npy", {}), ("g.npy", {"preprocessing": told})):
        write_index(tmp_path / name, np.ones((2, 4)), ["a", "b"], **changes)
    said = refusal(1, "knn", tmp_path / "g.npy", "--index", tmp_path / "f.npy", "-k", 1)
    assert "more None" in said


CLASSIFIER = {"format": 1, "classes": ["a", "b"], "n_last_blocks": 1, "avgpool": False}


@pytest.mark.parametrize(
    "change",
    [
        *(
            {"classes": names}
            for names in ("ab", [1, 2], [[], []], ["a", "\ud800"], {"a": 1, "b": 2})
        ),
        *({"n_last_blocks": blocks} for blocks in (None, "x", 1.5, -1, [])),
        *({"avgpool": pool} for pool in (None, "x", 2)),
        *({"weights_sha256": digest} for digest in (None, 5, [])),
    ],
    ids=str,
)
def test_a_classifier_that_tells_of_none(tmp_path, change):
    path, tensors = tmp_path / "c.safetensors", {"weight": torch.ones(2, 4), "bias": torch.ones(2)}
    save_file(tensors, path, metadata={"dino_classifier": json.dumps(CLASSIFIER)})
    assert read_classifier(path).facts == CLASSIFIER
    save_file(tensors, path, metadata={"dino_classifier": json.dumps({**CLASSIFIER, **change})})
    with pytest.raises(TaskError, match="is damaged"):
        read_classifier(path)


def test_a_classifier_of_no_weights_that_it_names(tmp_path):
    photo(tmp_path / "photos" / "a.png")
    weights = write_small_vit(tmp_path / "w.safetensors")
    path, tensors = tmp_path / "c.safetensors", {"weight": torch.ones(2, 24), "bias": torch.ones(2)}
    save_file(tensors, path, metadata={"dino_classifier": json.dumps(CLASSIFIER)})
    words = ("eval", "linear", "--classifier", path, "--predict", tmp_path / "photos")
    said = refusal(1, *words, "--weights", weights, "-o", tmp_path / "out", "--device", "cpu")
    assert "was trained on features of None" in said


DIGITS = "9" * 5000, "0x" + "f" * 5000, "18446744073709551616", "[1, [2, 0x" + "f" * 5000 + "]]"


@pytest.mark.parametrize("number", DIGITS, ids=len)
def test_whole_numbers_beyond_those_of_toml(tmp_path, number):
    (tmp_path / "c.toml").write_text(f"seed = {number}\n")
    with pytest.raises(TaskError, match="beyond 64 bits") as caught:
        read_toml(tmp_path / "c.toml")
    assert len(str(caught.value)) < 400
    (tmp_path / "c.toml").write_text("seed = 0x7fffffffffffffff\n")
    assert read_toml(tmp_path / "c.toml") == {"seed": 2**63 - 1}


@pytest.mark.parametrize(
    "text", ["lr" + ".a" * 5000 + " = 1", f"lr = {[1] * 5000}", 'lr = "' + "x" * 5000 + '"']
)
def test_a_value_without_end_is_told_by_its_beginning(tmp_path, text):
    (tmp_path / "c.toml").write_text(text)
    words = ("train", tmp_path, "--config", tmp_path / "c.toml", "--dry-run")
    said = refusal(2, *words)
    assert "sets lr to" in said
    assert len(said) < 500
    assert shown("a" * 90) == repr("a" * 90)


def test_half_characters_of_a_file_are_printed_as_escapes(tmp_path):
    changes = {"weights_sha256": "\udcff\ud800"}
    for name, more in (("f.npy", {}), ("g.npy", changes)):
        write_index(tmp_path / name, np.ones((2, 4)), ["a", "b"], **more)
    said = refusal(1, "knn", tmp_path / "g.npy", "--index", tmp_path / "f.npy", "-k", 1)
    assert "\\ud800" in said


def test_names_that_no_file_can_have_are_missing(tmp_path):
    (tmp_path / "jpg").mkdir()
    for name in ("x" * 5000, "a\0b", "\ud800", "", "."):
        with pytest.raises(TaskError, match="of the ground truth is not in") as caught:
            image_paths(tmp_path / "jpg", [name])
        assert len(str(caught.value)) < 400


def test_ground_truth_of_numbers_without_end(tmp_path):
    path = tmp_path / "gnd_x.json"
    for number in ("9" * 4000, json.dumps("x" * 5000)):
        truth = '{"imlist": ["a"], "qimlist": ["b"], "gnd": [{"easy": [' + number + "]}]}"
        path.write_bytes(b"\xef\xbb\xbf" + truth.encode())  # as programs of Windows begin it
        with pytest.raises(TaskError, match="which is none of 1 images") as caught:
            read_ground_truth(path)
        assert len(str(caught.value)) < 400


def test_as_many_frames_and_as_far_as_nobody_counts():
    tokens, mask = torch.eye(4), torch.eye(4).view(4, 2, 2)
    wanted = Propagation(tokens, mask, frames=3, reach=2).step(tokens)
    found = Propagation(tokens, mask, frames=10**30, reach=10**30).step(tokens)
    assert torch.equal(found, wanted)


@pytest.mark.parametrize("suffix", [".npy", ".safetensors", ".csv"])
def test_classes_whose_names_are_no_utf8_are_read_again(tmp_path, suffix):
    folder = tmp_path / os.fsdecode(b"\xff\xfe")
    photo(tmp_path / "photos" / folder.name / "a.png", size=(24, 20))
    weights, output = write_small_vit(tmp_path / "w.safetensors"), tmp_path / f"f{suffix}"
    words = ("embed", tmp_path / "photos", "--weights", weights, "-o", output, "--workers", 0)
    dino(*words, "--device", "cpu")
    assert read_embeddings(output).labels == [folder.name]
    facts = output.with_suffix(".json")
    assert json.loads(facts.read_bytes())["classes"] == [folder.name]  # by any program
    facts.write_bytes(facts.read_bytes().replace(b'"\\udcff\\udcfe"', b'"\xff\xfe"'))
    assert read_embeddings(output).labels == [folder.name]  # as earlier versions wrote it


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("method", ["pca", pytest.param("umap", marks=pytest.mark.slow)])
def test_features_that_are_not_finite_have_no_place(value, method):
    with pytest.raises(TaskError, match=r"not finite|UMAP is not installed"):
        project(np.full((5, 4), value, np.float32), Reporter(), method=method)

"""Pickles of plain data are read; everything else is refused, and nothing runs."""

import builtins
import os
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest

from dino_cli.errors import TaskError
from dino_cli.store.benchmarks import plain_pickle
from dino_cli.store.benchmarks.plain_pickle import read_plain_pickle

TRUTH = {
    "imlist": ["a", "b", "ü"],
    "gnd": [{"bbx": [1.5, 2.0, 3.0, 4.0], "easy": [0], "junk": [], "none": None}],
}


def written(tmp_path: Path, content: bytes) -> Path:
    path = tmp_path / "gnd.pkl"
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_plain_data_of_every_protocol(tmp_path: Path, protocol: int) -> None:
    truth = {**TRUTH, "tuple": (1, 2), "shared": [TRUTH["imlist"]] * 2}
    back = read_plain_pickle(written(tmp_path, pickle.dumps(truth, protocol)))
    assert back == {**truth, "tuple": [1, 2]}


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("kind", ["<i8", ">i4", "u1", "<f8", "<f4", "?"])
def test_arrays_become_lists(tmp_path: Path, protocol: int, kind: str) -> None:
    array = np.arange(6).astype(kind)
    content = {
        "flat": array,
        "two": array.reshape(2, 3),
        "columns": np.asfortranarray(array.reshape(2, 3)),
        "empty": array[:0],
        "number": array[4],
    }
    back = read_plain_pickle(written(tmp_path, pickle.dumps(content, protocol)))
    assert back == {name: value.tolist() for name, value in content.items()}


def test_arrays_of_python_2(tmp_path: Path) -> None:
    """Protocol 2 as Python 2 wrote it: bytes as short strings, NumPy under its old names."""
    raw = np.array([3, 250, 7], "<i8").tobytes()
    content = (
        b"\x80\x02}q\x01U\x04easyq\x02cnumpy.core.multiarray\n_reconstruct\nq\x03cnumpy\nndarray\n"
        b"q\x04K\x00\x85q\x05U\x01bq\x06\x87q\x07Rq\x08(K\x01K\x03\x85q\x09cnumpy\ndtype\nq\x0aU"
        b"\x02i8q\x0bK\x00K\x01\x87q\x0cRq\x0d(K\x03U\x01<q\x0eNNNJ\xff\xff\xff\xffJ\xff\xff\xff"
        b"\xffK\x00tq\x0fb\x89U" + bytes([len(raw)]) + raw + b"q\x10tq\x11bs."
    )
    assert read_plain_pickle(written(tmp_path, content)) == {"easy": [3, 250, 7]}


class Calls:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def test_nothing_is_called(tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    for function in (os.mkdir, os.system, builtins.eval, builtins.exec, builtins.open, getattr):
        content = pickle.dumps([1, Calls(function, str(ran))])
        with pytest.raises(TaskError, match=r"names .*, which is no plain data"):
            read_plain_pickle(written(tmp_path, content))
    # NumPy's own way to load an object's pickle, and a type made of Python objects
    for content in (
        b"cnumpy\nload\n(S'x'\ntR.",
        b"cnumpy.core.multiarray\nscalar\n(cnumpy\ndtype\n(S'O8'\nI0\nI1\ntR(I3\nS'|'\nNNNI-1\nI-1"
        b"\nI63\ntbS'x'\ntR.",
        pickle.dumps(np.array([Calls(os.mkdir, str(ran))], dtype=object)),
    ):
        with pytest.raises(TaskError):
            read_plain_pickle(written(tmp_path, content))
    assert not ran.exists()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"no pickle",
        pickle.dumps(TRUTH)[:-20],
        b"P1\n.",  # an object outside the file
        b"\x80\x02\x82\x01.",  # a registered extension
        b"\x80\x04(l",
        b"c__builtin__\nbytes\n(I9\ntR.",
        b"N" + b"r" + struct.pack("<I", 2**31) + b".",  # a memo of gigabytes
        b"\x80\x04\x8d" + struct.pack("<Q", 2**62) + b"x.",  # a text of exabytes
        # a method and attributes of what stands for NumPy's names
        b"cnumpy\ndtype\n}S'__call__'\nI1\nsb.",
        b"cnumpy\ndtype\nN}S'x'\nI1\ns\x86b.",
        b"cnumpy\nndarray\n(tR.",
        b"\x80\x04cnumpy\ndtype\n)\x81.",
        pickle.dumps({"a": object()}),
        pickle.dumps({"a": 1j}),
        pickle.dumps([[[[[[[1]]]]]]]),
    ],
)
def test_broken_and_hostile_files_are_refused(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(TaskError, match="ground truth is lists"):
        read_plain_pickle(written(tmp_path, content))


def test_an_array_of_no_bytes_has_no_rows(tmp_path: Path) -> None:
    content = pickle.dumps(np.zeros((3, 0)), 2)
    claims = content.replace(b"K\x03K\x00\x86", b"J\xff\xff\xff\x7fK\x00\x86")
    assert claims != content
    assert read_plain_pickle(written(tmp_path, claims)) == []


def test_lists_that_hold_each_other_are_not_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plain_pickle, "MOST_ITEMS", 10_000)
    inner: list = list(range(200))
    for _ in range(4):
        inner = [inner] * 200
    with pytest.raises(TaskError, match="without end"):
        read_plain_pickle(written(tmp_path, pickle.dumps(inner)))
    endless: list = []
    endless.append(endless)
    with pytest.raises(TaskError, match="without end"):
        read_plain_pickle(written(tmp_path, pickle.dumps(endless)))


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(TaskError, match="cannot read"):
        read_plain_pickle(tmp_path / "gone.pkl")

"""Read a pickle of plain data without running anything that it names.

The landmark benchmarks publish their ground truth as pickles. A pickle is a program; this reader
knows the few names that NumPy's arrays are made of, answers to them itself, and refuses any other.
"""

import io
import pickle
import pickletools
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from dino_cli.errors import TaskError

__all__ = ["read_plain_pickle"]

MOST_BYTES = 256 * 2**20
MOST_ITEMS = 2_000_000
DEEPEST = 5
MEMO = {"PUT", "BINPUT", "LONG_BINPUT", "GET", "BINGET", "LONG_BINGET"}
FIX = "ground truth is lists, dictionaries, texts and numbers; give a .json of these instead"


def read_plain_pickle(path: Path) -> Any:
    """Lists, dictionaries, texts, numbers and NumPy arrays of numbers, these as lists.

    No code of any module is called for what the file asks. Raises `TaskError` for other content.
    """
    try:
        size = path.stat().st_size
        if size > MOST_BYTES:
            raise TaskError(f"{str(path)!r} is too large for ground truth ({size} bytes)", FIX)
        data = path.read_bytes()
    except OSError as error:
        raise TaskError(f"cannot read {str(path)!r}: {error.strerror}", "check the file") from None
    try:
        # A memo index is allocated up to its value, whatever the file's size.
        for code, argument, _ in pickletools.genops(data):
            if code.name in MEMO and int(argument or 0) > len(data):
                raise pickle.UnpicklingError(f"a memo index of {argument}")
        # latin1: how Python 3 gets back the bytes of arrays that Python 2 pickled.
        return _plain(_Reader(io.BytesIO(data), encoding="latin1").load(), [MOST_ITEMS])
    except _Refused as error:
        raise TaskError(f"{str(path)!r} names {error}, which is no plain data", FIX) from None
    except Exception as error:  # a broken pickle raises anything at all
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise TaskError(f"{str(path)!r} is no pickle of plain data: {reason}", FIX) from None


class _Refused(Exception):
    """A pickle asks for something that is not answered; its text is the name."""


class _Reader(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        # Under their names of NumPy 1 and Python 3
        known = module.replace("numpy._core", "numpy.core").replace("__builtin__", "builtins")
        found = _KNOWN.get((known, name))
        if found is None:
            raise _Refused(f"{module}.{name}")
        return found

    def persistent_load(self, pid: Any) -> NoReturn:
        raise _Refused("an object outside the file")


class _Type:
    """Stands for `numpy.dtype`: the kind of number, and its byte order once that is told."""

    __slots__ = ("kind", "order")

    def __init__(self, kind: str, *_: object) -> None:
        if kind[:1] not in "biuf" or not kind[1:].isdigit():
            raise _Refused(f"numbers of type {kind!r}")
        self.kind, self.order = kind, "<"

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.order = state[1] if state[1] in ("<", ">") else "<"

    def read(self, content: Any) -> np.ndarray[Any, Any]:
        raw = content.encode("latin1") if isinstance(content, str) else content
        return np.frombuffer(raw, np.dtype(self.order + self.kind))


class _Array:
    """Stands for `numpy.ndarray`: empty, then filled with shape, type and bytes."""

    __slots__ = ("values",)

    def __init__(self) -> None:
        self.values: list[Any] = []

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, kind, by_columns, content = state
        self.values = _listed(kind.read(content), shape, "F" if by_columns else "C")


def _listed(flat: np.ndarray[Any, Any], shape: Any, order: Any) -> list[Any]:
    # An array of no bytes may still claim to have any number of rows.
    values: list[Any] = flat.reshape(shape, order=order).tolist() if flat.size else []
    return values


class _Answer:
    """A callable that pickles may name; it has no attributes that a pickle could change."""

    __slots__ = ()

    def __call__(self, *_: Any) -> Any:
        raise _Refused("a call")


class _MakeType(_Answer):
    __slots__ = ()

    def __call__(self, kind: str, *_: Any) -> _Type:
        return _Type(kind)


class _MakeArray(_Answer):
    __slots__ = ()

    def __call__(self, *_: Any) -> _Array:
        return _Array()


class _MakeFilledArray(_Answer):
    __slots__ = ()

    def __call__(self, *arguments: Any) -> list[Any]:
        content, kind, shape, order = arguments[:4]
        return _listed(kind.read(bytes(content)), shape, order)


class _MakeNumber(_Answer):
    __slots__ = ()

    def __call__(self, *arguments: Any) -> Any:
        kind, content = arguments
        return kind.read(content)[0].item()


class _MakeBytes(_Answer):
    __slots__ = ()

    def __call__(self, *arguments: Any) -> bytes:
        text, encoding = arguments
        if encoding not in ("latin1", "latin-1"):
            raise _Refused(f"text in {encoding!r}")
        return str(text).encode("latin1")


class _MakeNoBytes(_Answer):
    __slots__ = ()

    def __call__(self, *arguments: Any) -> bytes:
        if arguments:
            raise _Refused("a call of bytes")
        return b""  # how protocols before 3 write no bytes


_KNOWN: dict[tuple[str, str], object] = {
    ("numpy", "dtype"): _MakeType(),
    ("numpy", "ndarray"): "ndarray",  # only ever handed to the next one, which ignores it
    ("numpy.core.multiarray", "_reconstruct"): _MakeArray(),
    ("numpy.core.multiarray", "scalar"): _MakeNumber(),
    ("numpy.core.numeric", "_frombuffer"): _MakeFilledArray(),  # protocol 5
    ("_codecs", "encode"): _MakeBytes(),
    ("builtins", "bytes"): _MakeNoBytes(),
}


def _plain(value: Any, left: list[int], depth: int = 0) -> Any:
    """Arrays, tuples and sets as lists. left: how many items there may still be.

    A list may hold another many times over, so that few bytes can stand for endless items.
    """
    left[0] -= 1
    if depth > DEEPEST or left[0] < 0:
        raise _Refused("lists of lists without end")
    if isinstance(value, _Array):
        return value.values
    if isinstance(value, dict):
        return {str(key): _plain(item, left, depth + 1) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(item, left, depth + 1) for item in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, bytes):
        return value.decode("utf-8")
    raise _Refused(f"an object of type {type(value).__name__.strip('_')}")

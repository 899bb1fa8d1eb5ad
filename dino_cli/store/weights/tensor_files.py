"""Reading files of tensors without ever running what they contain."""

import argparse
import pickle
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from dino_cli.errors import TaskError

__all__ = ["TensorFile", "lasting_name", "read_tensor_file"]

EXPECTED = "give a .pth, .safetensors or .bin file of weights, or a folder that holds one"
MAPPED = 1 << 26  # bytes of a file that may be in memory twice while it is read


@dataclass(frozen=True)
class TensorFile:
    """What a file of weights holds: tensors by name, perhaps nested (a full checkpoint).

    metadata: the header's text fields; only .safetensors has them. owned: the tensors lie in
    memory of their own; else they are mapped from the file, and change when it does.
    """

    path: Path
    content: Mapping[str, Any]
    metadata: Mapping[str, str] = field(default_factory=dict)
    owned: bool = True


def read_tensor_file(path: Path) -> TensorFile:
    """Read a .safetensors file or what `torch.save` wrote, told apart by content, not by suffix.

    Runs no pickled code: `weights_only`, with `argparse.Namespace` allowed because the reference's
    checkpoints hold one. Tensors may be mapped from the file. Raises `TaskError` in one sentence
    for everything else.
    """
    try:
        with path.open("rb") as file:
            start = file.read(1024)
    except OSError as error:
        raise TaskError(f"cannot read {str(path)!r}: {error.strerror}", EXPECTED) from None
    if start[8:9] == b"{" and int.from_bytes(start[:8], "little") < path.stat().st_size:
        return _read_safetensors(path)
    if start.startswith((b"PK\x03\x04", b"\x80")):
        return _read_torch(path, zipped=start.startswith(b"PK"))
    what, fix = _what_is(start)
    raise TaskError(f"{str(path)!r} {what}", fix)


@contextmanager
def lasting_name(path: Path) -> Iterator[str]:
    """Yield another name of the file, for libraries that take no open file.

    They know names in UTF-8 only, and may go by the suffix. It names the same file when another
    has been put in its place meanwhile, as `dino train` does, so that no two are mixed.
    """
    with path.open("rb") as file:
        yield f"/dev/fd/{file.fileno()}"


def _read_safetensors(path: Path) -> TensorFile:
    try:
        with lasting_name(path) as lasting:
            with safe_open(lasting, framework="pt") as file:
                names, metadata = list(file.keys()), file.metadata() or {}
            tensors: dict[str, Tensor] = {}
            while len(tensors) < len(names):  # opened anew, so that few pages stay beside copies
                with safe_open(lasting, framework="pt") as file:
                    _copy_some(file, names[len(tensors) :], tensors)
        return TensorFile(path, tensors, metadata)
    except (SafetensorError, OSError, RuntimeError, ValueError, KeyError, AttributeError) as error:
        raise TaskError(
            f"{str(path)!r} is a damaged .safetensors file ({_short(error)})", "copy it again"
        ) from None


def _copy_some(file: Any, names: Sequence[str], tensors: dict[str, Tensor]) -> None:
    copied = 0
    for name in names:
        tensors[name] = file.get_tensor(name).clone()
        copied += tensors[name].nbytes
        if copied >= MAPPED:
            return


def _read_torch(path: Path, *, zipped: bool) -> TensorFile:
    """Mapped where there is more than weights, so that the optimizer's half is never read."""
    mapped = zipped
    try:
        with (
            lasting_name(path) as lasting,
            warnings.catch_warnings(),
            torch.serialization.safe_globals([argparse.Namespace]),
        ):
            warnings.simplefilter("ignore")
            content = torch.load(lasting, map_location="cpu", weights_only=True, mmap=zipped)
            values = content.values() if isinstance(content, Mapping) else ()
            if zipped and all(isinstance(value, Tensor) for value in values):
                content = torch.load(lasting, map_location="cpu", weights_only=True)
                mapped = False
    except pickle.UnpicklingError as error:
        wanted = re.search(r"GLOBAL (\S+)|unsupported class (\S+)", str(error))
        if wanted is None:
            raise _damaged(path, error) from None
        name = (wanted[1] or wanted[2]).strip("`'\"")
        raise TaskError(
            f"{str(path)!r} could only be read by running code from it (it asks for {name}),"
            " which is never done",
            "have its author save the tensors alone, as torch.save(model.state_dict(), …)"
            " or .safetensors",
        ) from None
    except Exception as error:  # a damaged archive ends in any exception whatever
        raise _damaged(path, error) from None
    if not isinstance(content, Mapping):
        kind = "a single tensor" if isinstance(content, Tensor) else f"a {type(content).__name__}"
        raise TaskError(f"{str(path)!r} holds {kind}, not tensors by name", EXPECTED)
    return TensorFile(path, content, owned=not mapped)


def _damaged(path: Path, error: Exception) -> TaskError:
    return TaskError(
        f"{str(path)!r} is damaged or not a file of weights ({_short(error)})",
        "copy it again, or give another",
    )


def _short(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    text = re.split(r"(?<=[a-z])\. |; |\n", text)[0]
    return text if len(text) <= 100 else text[:97] + "…"


def _what_is(start: bytes) -> tuple[str, str]:
    if not start:
        return "is empty", "copy it again"
    if start.startswith(b"version https://git-lfs"):
        return (
            "is a Git LFS pointer, not the weights themselves",
            "fetch the file with `git lfs pull`",
        )
    if start.startswith(b"\x89HDF"):
        return "is a Keras (HDF5) file", "convert it to .safetensors, or use a PyTorch release"
    lowered = start.lstrip().lower()
    if lowered.startswith((b"<!doctype", b"<html", b"<?xml")):
        return "is a web page, not weights", "download the file itself"
    try:
        start.decode("utf-8")
    except UnicodeDecodeError as error:
        if error.start < len(start) - 3:  # else only a character cut in two
            return "is not a file of weights", EXPECTED
    if b"\0" in start:
        return "is not a file of weights", EXPECTED
    return "is a text file, not weights", EXPECTED

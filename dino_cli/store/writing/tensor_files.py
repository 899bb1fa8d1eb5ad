"""Tensors to files; whatever a full disk makes the libraries raise comes out as `OSError`."""

import errno
import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

__all__ = ["save_state", "save_tensors"]


def save_tensors(
    path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None
) -> None:
    """As .safetensors; the same content makes the same bytes. Raises `OSError`."""
    with _as_os_error(path):
        save_file(dict(tensors), path, metadata=dict(metadata or {}))
        _order_header(path)


def _order_header(path: Path) -> None:
    """The library writes the texts of a header in random order; put them in one, in place."""
    with path.open("r+b") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
        texts = header.pop("__metadata__", {})
        ordered = {"__metadata__": dict(sorted(texts.items())), **header}
        text = json.dumps(ordered, separators=(",", ":"), ensure_ascii=False).encode()
        if texts and len(text) <= length:
            file.seek(8)
            file.write(text.ljust(length))


def save_state(file: Path | IO[bytes], state: Mapping[str, Any]) -> None:
    """By `torch.save`. Raises `OSError`."""
    if isinstance(file, Path):
        # torch's own opening of a path loses what the disk said, as of being full.
        with file.open("wb") as opened:
            save_state(opened, state)
        return
    with _as_os_error(None):
        torch.save(dict(state), file)


@contextmanager
def _as_os_error(path: Path | None) -> Iterator[None]:
    try:
        yield
    except (SafetensorError, RuntimeError) as error:
        code = errno.EIO
        cause = error.__context__  # torch's writer complains of what a first error left undone
        told = re.search(r"os error (\d+)", str(error))
        if isinstance(cause, OSError) and cause.errno:
            code = cause.errno
        elif told:
            code = int(told[1])
        elif not re.search(r"PytorchStreamWriter|unexpected pos|I/O error", str(error)):
            raise  # of the tensors, not of the file
        raise OSError(code, os.strerror(code), str(path) if path else None) from None

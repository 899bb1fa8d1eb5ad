"""Tensors to files; whatever a full disk makes the libraries raise comes out as `OSError`."""

import errno
import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

__all__ = ["safetensors_header", "save_state", "save_tensors"]

SAFETENSORS = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


def save_tensors(
    path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None
) -> None:
    """As .safetensors; the same content makes the same bytes. Raises `OSError`.

    The library would write to a file of its own beside `path`, which stays when it is killed, and
    the texts of the header in random order.
    """
    # Wide types first, as the library has them: each tensor then begins at a multiple of its type.
    order = sorted(tensors, key=lambda name: (-tensors[name].itemsize, name))
    about = {n: (SAFETENSORS[tensors[n].dtype], tensors[n].shape, tensors[n].nbytes) for n in order}
    with path.open("wb") as file:
        file.write(safetensors_header(about, metadata or {}))
        for name in order:
            flat = tensors[name].detach().cpu().contiguous().reshape(-1)
            file.write(flat.view(torch.uint8).numpy().data)


def safetensors_header(
    tensors: Mapping[str, tuple[str, Sequence[int], int]], texts: Mapping[str, str]
) -> bytes:
    """What stands before the numbers of a .safetensors: a length of eight bytes, and JSON.

    tensors: type by its name there, shape and bytes of each, in the order in which they follow.
    """
    header: dict[str, Any] = {"__metadata__": dict(sorted(texts.items()))} if texts else {}
    start = 0
    for name, (dtype, shape, size) in tensors.items():
        offsets = [start, start + size]
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": offsets}
        start += size
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def save_state(file: Path | IO[bytes], state: Mapping[str, Any]) -> None:
    """By `torch.save`. Raises `OSError`."""
    if isinstance(file, Path):
        # torch's own opening of a path loses what the disk said, as of being full.
        with file.open("wb") as opened:
            save_state(opened, state)
        return
    try:
        torch.save(dict(state), file)
    except RuntimeError as error:
        code = errno.EIO
        cause = error.__context__  # torch's writer complains of what a first error left undone
        if isinstance(cause, OSError) and cause.errno:
            code = cause.errno
        elif not re.search(r"PytorchStreamWriter|unexpected pos|I/O error", str(error)):
            raise  # of the tensors, not of the file
        raise OSError(code, os.strerror(code)) from None

"""A model in Hugging Face's form: which files hold its weights, and the JSON beside them.

Standard library only.
"""

import json
from pathlib import Path
from typing import Any

from dino_cli.errors import TaskError

__all__ = ["INDEXES", "WEIGHT_FILES", "read_json", "shards"]

# Names of the weights, whole or divided, best first.
WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")
INDEXES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")


def read_json(path: Path) -> dict[str, Any] | None:
    """The object in a JSON file; None when there is none, or none that can be read."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return values if isinstance(values, dict) else None


def shards(index: Path) -> tuple[Path, ...]:
    """The files that the index of a divided model names, all beside it. Raises `TaskError`."""
    named = (read_json(index) or {}).get("weight_map")
    if not isinstance(named, dict) or not named:
        raise TaskError(f"{str(index)!r} is not an index of weights", "download it again")
    names = sorted({str(name) for name in named.values()})
    if any(Path(name).name != name for name in names):
        raise TaskError(f"{str(index)!r} names files outside its folder", "download it again")
    return tuple(index.parent / name for name in names)

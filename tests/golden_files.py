"""Where the original's numbers lie, and how they are read."""

import json
import os
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor

SHIPPED_GOLDEN = Path(__file__).parent / "golden"


def golden_folder() -> Path:
    """DINO_GOLDEN_DIR, else the copy beside the tests."""
    return Path(os.environ.get("DINO_GOLDEN_DIR", SHIPPED_GOLDEN))


class Golden:
    """Reads files of the golden folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def tensors(self, name: str) -> dict[str, Tensor]:
        return load_file(self.folder / f"{name}.safetensors")

    def json(self, name: str) -> Any:
        return json.loads((self.folder / f"{name}.json").read_text())


def eval_golden_folder() -> Path:
    """DINO_GOLDEN_EVAL_DIR, else the copy beside the tests."""
    return Path(os.environ.get("DINO_GOLDEN_EVAL_DIR", SHIPPED_GOLDEN / "eval"))


def hf_golden_folder() -> Path:
    """DINO_GOLDEN_HF_DIR, else the copy beside the tests."""
    return Path(os.environ.get("DINO_GOLDEN_HF_DIR", SHIPPED_GOLDEN / "hf"))

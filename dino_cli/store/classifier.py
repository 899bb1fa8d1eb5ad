"""Linear classifiers in files: our own with class names, and the original's linear_weights."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dino_cli.errors import TaskError
from dino_cli.store.weights.tensor_files import read_tensor_file
from dino_cli.store.writing.tensors import save_tensors

__all__ = ["Classifier", "read_classifier", "write_classifier"]

FORMAT = 1
PREFIXES = ("module.linear.", "linear.", "module.", "")
EXPECTED = "give a classifier.safetensors of `dino eval linear`, or the original's linear_weights"


@dataclass(frozen=True)
class Classifier:
    """weight: float32 (C, D); bias: (C,). facts: `classes`, `n_last_blocks`, `avgpool` and what
    made the features, by the names of `feats.json`; empty for a file of the original."""

    weight: Tensor
    bias: Tensor
    facts: Mapping[str, Any] = field(default_factory=dict)


def read_classifier(path: Path) -> Classifier:
    """Read linear weights. Raises `TaskError` in one sentence for everything else."""
    if not path.is_file():
        raise TaskError(f"the classifier {str(path)!r} does not exist", EXPECTED)
    file = read_tensor_file(path)
    content = file.content
    if isinstance(content.get("state_dict"), Mapping):  # the original's, beside its optimizer
        content = content["state_dict"]
    for prefix in PREFIXES:
        weight, bias = content.get(f"{prefix}weight"), content.get(f"{prefix}bias")
        if isinstance(weight, Tensor) and isinstance(bias, Tensor):
            break
    else:
        some = ", ".join(repr(name) for name in list(content)[:3]) or "nothing"
        raise TaskError(f"{str(path)!r} holds no linear classifier, but {some}", EXPECTED)
    if weight.ndim != 2 or bias.shape != weight.shape[:1] or not len(bias):
        raise TaskError(
            f"{str(path)!r} holds a weight of {tuple(weight.shape)} and a bias of"
            f" {tuple(bias.shape)}, no linear classifier",
            EXPECTED,
        )
    if any(one.layout != torch.strided or not one.is_floating_point() for one in (weight, bias)):
        raise TaskError(f"{str(path)!r} holds numbers of another kind than weights", EXPECTED)
    return Classifier(weight.float(), bias.float(), _facts(path, file.metadata, len(bias)))


def _facts(path: Path, metadata: Mapping[str, str], rows: int) -> Mapping[str, Any]:
    if "dino_classifier" not in metadata:
        return {}
    try:
        facts: dict[str, Any] = json.loads(metadata["dino_classifier"])
        ok = facts["format"] == FORMAT and _fit(facts, rows)
    except (ValueError, KeyError, TypeError, RecursionError):
        ok = False
    if not ok:
        raise TaskError(f"the header of {str(path)!r} is damaged", "make the classifier again")
    return facts


def _fit(facts: Mapping[str, Any], rows: int) -> bool:
    """Whether facts say what is asked of them. Raises as what reads them."""
    names, blocks = facts["classes"], facts["n_last_blocks"]
    "".join(names).encode("utf-8", "surrogateescape")  # as tables hold them
    return (
        isinstance(names, list)
        and len(names) == rows
        and isinstance(blocks, int)
        and blocks >= 0
        and isinstance(facts["avgpool"], bool)
        and isinstance(facts.get("weights_sha256", ""), str)
    )


def write_classifier(path: Path, classifier: Classifier) -> None:
    """As .safetensors, the facts in its header. Raises `OSError`."""
    tensors = {"weight": classifier.weight, "bias": classifier.bias}
    header = json.dumps({"format": FORMAT, **classifier.facts})
    save_tensors(path, tensors, {"format": "pt", "dino_classifier": header})

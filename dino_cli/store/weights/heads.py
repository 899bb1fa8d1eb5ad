"""The projection head and the centre, which a full checkpoint holds beside the backbone."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from dino_cli.store.weights.layouts import network_of, own_head
from dino_cli.store.weights.tensor_files import read_tensor_file

__all__ = ["HeadWeights", "read_head"]

MATRICES = ("mlp.0.weight", "last_layer.weight_v")  # without which it is not DINO's


@dataclass(frozen=True, kw_only=True)
class HeadWeights:
    """The teacher's projection head, all on the CPU.

    tensors: under the names of `core.training.head.DinoHead`, perhaps mapped from the file. centre:
    float32 (1, K), of the teacher's logits; None where the file has none.
    """

    tensors: Mapping[str, Tensor]
    centre: Tensor | None

    @property
    def options(self) -> dict[str, int | bool]:
        """The options of `dino train` that make such a head."""
        last, first = self.tensors["last_layer.weight_v"], self.tensors["mlp.0.weight"]
        return {
            "out_dim": last.shape[0],
            "head_hidden": first.shape[0],
            "head_bottleneck": last.shape[1],
            "use_bn_in_head": "mlp.1.running_mean" in self.tensors,
        }

    @property
    def not_finite(self) -> list[str]:
        """Names of the tensors that are not."""
        named = {**self.tensors, "centre": self.centre}
        return [name for name, t in named.items() if t is not None and not t.isfinite().all()]


def read_head(path: Path) -> HeadWeights | None:
    """The head in a full checkpoint of the reference or of `dino train`, or in a run's folder.

    None where there is none. Raises `TaskError` for a damaged file.
    """
    file = path / "checkpoint.pt" if path.is_dir() else path
    if not file.is_file():
        return None
    content = read_tensor_file(file).content
    if not isinstance(content.get("teacher"), Mapping):
        return None
    tensors = own_head(network_of(content, "teacher"))
    if any(name not in tensors or tensors[name].ndim != 2 for name in MATRICES):
        return None
    return HeadWeights(tensors=tensors, centre=_centre(content))


def _centre(content: Mapping[str, Any]) -> Tensor | None:
    """Of `dino train`, else of the reference."""
    loss = content.get("dino_loss")
    found = content.get("centre", loss.get("center") if isinstance(loss, Mapping) else None)
    return found.float().reshape(1, -1).clone() if isinstance(found, Tensor) else None

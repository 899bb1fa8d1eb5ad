"""DINO self-supervised vision transformers: train, embed, classify, and look at attention.

As a library: `load_model`, `embed`, `attention_masks` and `knn` do what the commands do, on values
of Python. They are imported, with torch, when they are first asked for.
"""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

__all__ = [
    "Features",
    "Masks",
    "Model",
    "Neighbors",
    "__version__",
    "attention_masks",
    "embed",
    "knn",
    "load_model",
]

if TYPE_CHECKING:
    from dino_cli.library import (
        Features,
        Masks,
        Model,
        Neighbors,
        attention_masks,
        embed,
        knn,
        load_model,
    )


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from dino_cli import library

    return getattr(library, name)


def __dir__() -> list[str]:
    return sorted(__all__)

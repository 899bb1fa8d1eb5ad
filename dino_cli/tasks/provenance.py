"""What an output tells about the network that made it, for the command that uses it next."""

from collections.abc import Mapping, Set
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from dino_cli.config.shared import ModelOptions, Preprocessing
from dino_cli.core.network.architecture import LAST_LAYER
from dino_cli.core.network.features import GRID_KINDS, KINDS, Kind
from dino_cli.errors import TaskError
from dino_cli.store.weights.preprocessing import preprocessing_from_json

__all__ = [
    "NETWORK",
    "model_facts",
    "recorded_kind",
    "recorded_layer",
    "recorded_preprocessing",
    "with_recorded_network",
]

# What decides which network it is, by the names in the .json.
NETWORK = ("weights_sha256", "checkpoint_key", "arch", "patch_size", "heads")

Options = TypeVar("Options", bound=ModelOptions)


def model_facts(options: ModelOptions) -> dict[str, Any]:
    """What decides, beside the weights' digest, which network is made of them; for the .json."""
    return {key: getattr(options, key) for key in NETWORK if key != "weights_sha256"}


def with_recorded_network(
    options: Options, facts: Mapping[str, Any], given: Set[str], what: str
) -> Options:
    """The options with the network that made `what`, except for what the person typed (`given`).

    A local file is recorded by its absolute path, everything else by the model's name. Raises
    `TaskError` when the file is gone.
    """
    if given & {"model", "weights"}:
        return options
    told = {key: facts.get(key) for key in ("weights", "model", *NETWORK)}
    numbers = ("patch_size", "heads")
    if any(
        value is not None and not isinstance(value, int if key in numbers else str)
        for key, value in told.items()
    ):
        raise TaskError(
            f"what is recorded of {what} does not tell the network that made it",
            "name it with --model or --weights",
        )
    weights = Path(told["weights"] or "")
    if weights.is_absolute() and not weights.exists():
        raise TaskError(
            f"the weights that made {what}, {str(weights)!r}, are not there any more",
            "name them with --weights PATH",
        )
    made: dict[str, Any] = {
        "model": facts.get("model", options.model),
        "weights": weights if weights.is_absolute() else None,
    }
    made |= {key: facts[key] for key in NETWORK if key in facts and hasattr(options, key)}
    return replace(options, **{key: value for key, value in made.items() if key not in given})


def recorded_preprocessing(facts: Mapping[str, Any]) -> Preprocessing | None:
    """The preprocessing in a .json; None when it tells none."""
    try:
        return preprocessing_from_json(facts["preprocessing"])
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
        return None


def recorded_kind(facts: Mapping[str, Any]) -> Kind | None:
    """The kind of vectors that a .json tells of; None for grids, and where it tells of none."""
    told = facts.get("features", "cls")
    return next((kind for kind in KINDS if kind == told and kind not in GRID_KINDS), None)


def recorded_layer(facts: Mapping[str, Any]) -> int:
    """The block, by its number from 0, that a .json tells of; -1, the last, where it tells none."""
    return int(facts.get("layer", LAST_LAYER))

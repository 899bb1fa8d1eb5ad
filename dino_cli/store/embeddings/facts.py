"""What a file of features tells of itself, checked once for all that read it."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from dino_cli.config.values import Difference, difference
from dino_cli.core.network.architecture import LAST_LAYER, MOST_BLOCKS

__all__ = ["FORMAT", "are_facts", "are_names", "made_differently"]

FORMAT = 1  # of the .json
KIND = re.compile(r"[a-z0-9+]{1,20}")  # names a file, or an array in one
FASTEST = 1e9  # frames per second
# What holds where it is not told: exports of the last layer have never told it, and old ones do not
# tell what only tables may have, nor of several scales.
UNTOLD = {"layer": LAST_LAYER, "multi_scale": False, "thumbnails": False}


def made_differently(
    ours: Mapping[str, Any], theirs: Mapping[str, Any], keys: Iterable[str] | None = None
) -> Difference | None:
    """As `difference`, of what two exports, or an export and a command, tell of their making."""
    # Twice: the first one's order decides which of several differences is told.
    return difference({**ours, **UNTOLD, **ours}, {**theirs, **UNTOLD, **theirs}, keys)


def are_facts(facts: Any) -> bool:
    """Whether it can be the .json of `dino embed`, as far as one relies on it unseen."""
    if not isinstance(facts, dict) or facts.get("format") != FORMAT:
        return False
    arrays, videos = facts.get("arrays") or {}, facts.get("videos") or {}
    if not isinstance(arrays, dict) or not isinstance(videos, dict):
        return False
    kinds = [facts.get("features", "cls"), *arrays]
    return (
        all(isinstance(kind, str) and KIND.fullmatch(kind) for kind in kinds)
        and all(isinstance(r, int | float) and 0 <= r <= FASTEST for r in videos.values())
        and are_names(videos)
        and _is_layer(facts.get("layer", LAST_LAYER))
    )


def _is_layer(number: Any) -> bool:
    whole = isinstance(number, int) and not isinstance(number, bool)
    return whole and LAST_LAYER <= number < MOST_BLOCKS


def are_names(texts: Iterable[Any]) -> bool:
    """Whether they are texts that a table can hold: characters, and bytes of names on disk."""
    try:
        return all(isinstance(text.encode("utf-8", "surrogateescape"), bytes) for text in texts)
    except (AttributeError, UnicodeEncodeError):
        return False

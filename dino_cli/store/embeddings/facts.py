"""What a file of features tells of itself, checked once for all that read it."""

import re
from collections.abc import Iterable
from typing import Any

from dino_cli.store.embeddings.formats import FORMAT

__all__ = ["are_facts", "are_names"]

KIND = re.compile(r"[a-z0-9+]{1,20}")  # names a file, or an array in one
FASTEST = 1e9  # frames per second


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
    )


def are_names(texts: Iterable[Any]) -> bool:
    """Whether they are texts that a table can hold: characters, and bytes of names on disk."""
    try:
        return all(isinstance(text.encode("utf-8", "surrogateescape"), bytes) for text in texts)
    except (AttributeError, UnicodeEncodeError):
        return False

"""Several files under one argument: `{000..009}`, `{a,b}`, `*`, `?`, `[0-9]` and `**`."""

import glob
import itertools
import os
import re

__all__ = ["expand_braces", "expand_pattern", "is_pattern"]

GROUP = re.compile(r"\{([^{}]*)\}")
RANGE = re.compile(r"(\d+)\.\.(\d+)")


def is_pattern(argument: str) -> bool:
    """Whether an argument stands for other names; what exists under this name does not."""
    return bool(re.search(r"[*?\[]", argument) or expand_braces(argument) != [argument]) and not (
        os.path.lexists(argument)
    )


def expand_pattern(argument: str) -> list[str]:
    """The existing paths that a pattern means: braces in their order, the rest sorted.

    A name from braces alone is kept although nothing may lie there.
    """
    found: list[str] = []
    for name in expand_braces(argument):
        if re.search(r"[*?\[]", name):
            found += sorted(glob.glob(name, recursive=True))
        else:
            found.append(name)
    return found


def expand_braces(text: str) -> list[str]:
    """As a shell does: `{a,b}` and `{08..11}`, whose numbers keep their zeros in front."""
    pieces = GROUP.split(text)  # plain text and contents of groups by turns
    choices = [_choices(piece) if i % 2 else [piece] for i, piece in enumerate(pieces)]
    return ["".join(chosen) for chosen in itertools.product(*choices)]


def _choices(group: str) -> list[str]:
    numbers = RANGE.fullmatch(group)
    if numbers:
        first, last = numbers.groups()
        step = 1 if int(first) <= int(last) else -1
        padded = any(len(text) > 1 and text.startswith("0") for text in (first, last))
        digits = max(len(first), len(last)) if padded else 0
        return [f"{n:0{digits}}" for n in range(int(first), int(last) + step, step)]
    return group.split(",") if "," in group else [f"{{{group}}}"]

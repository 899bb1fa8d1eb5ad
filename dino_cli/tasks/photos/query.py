"""The point whose patch is asked what it attends to."""

import re
from dataclasses import dataclass

from dino_cli.core.masks.layout import PatchLayout
from dino_cli.errors import UsageError

__all__ = ["Query", "parse_query"]

POINT = re.compile(r"\s*(\d+(?:\.\d+)?)(%?)\s*,\s*(\d+(?:\.\d+)?)(%?)\s*", re.ASCII)


@dataclass(frozen=True)
class Query:
    """A point of any photo: x and y in pixels, or in hundredths of its sides where `percent`."""

    x: float
    y: float
    percent: bool

    def at(self, photo: tuple[int, int]) -> tuple[float, float]:
        """The point (y, x) in pixels of a photo of height and width."""
        if not self.percent:
            return self.y, self.x
        # 100 % is the last pixel, not the first one outside.
        return (
            min(self.y / 100 * photo[0], photo[0] - 1e-6),
            min(self.x / 100 * photo[1], photo[1] - 1e-6),
        )

    def patch(self, layout: PatchLayout) -> int:
        """Number of its patch, in reading order. Raises `ValueError` outside the photo."""
        return layout.patch_at(*self.at(layout.photo))


def parse_query(text: str) -> Query:
    """ "320,180" or "50%,40%": x to the right, y down. Raises `UsageError`."""
    found = POINT.fullmatch(text)
    if found is None or found[2] != found[4]:
        raise UsageError(
            f"--query {text!r} is not a point",
            "write x,y in pixels, such as --query 320,180, or in per cent: --query 50%,40%",
        )
    query = Query(float(found[1]), float(found[3]), found[2] == "%")
    if query.percent and max(query.x, query.y) > 100:
        raise UsageError(f"--query {text!r} is outside the photo", "use at most 100%,100%")
    return query

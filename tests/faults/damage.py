"""Ways to damage a file: what a bad disk, a cut copy and a hostile author do to it."""

import json
import random
from collections.abc import Callable
from typing import Any

__all__ = ["BETWEEN", "DAMAGES", "damaged"]

BETWEEN = b"\n\0\xff\0\n"  # several files in one input

# What a hostile author writes where a number, a text or a list belongs.
NASTY: tuple[Any, ...] = (
    None, True, -1, 0, 1, 2**31, 2**60, -(2**63), 2**64, 1e308, float("nan"), float("inf"), 0.5,
    "", "x", "../../x", "\0", "\ud800", "nan", "<script>", [], [[]], {}, {"a": 1}, [None], [-1],
    [2**60, 2**60], [2**40] * 4, [1, 2, 3], "x" * 5000,
)  # fmt: skip


def damaged(content: bytes, draw: random.Random) -> tuple[str, bytes]:
    """The content after one to three of `DAMAGES`, and their names."""
    names = draw.choices(list(DAMAGES), k=draw.choice((1, 1, 1, 2, 3)))
    for name in names:
        content = DAMAGES[name](content, draw)
    return "+".join(names), content


def _spot(content: bytes, draw: random.Random) -> int:
    """A place in the file: often near its start or end, where the structure is told."""
    size = max(1, len(content))
    near = draw.choice((size, min(size, 200), min(size, 2000), -min(size, 2000)))
    return draw.randrange(near) if near > 0 else size - 1 - draw.randrange(-near)


def _flip_bit(content: bytes, draw: random.Random) -> bytes:
    return _put(content, _spot(content, draw), lambda byte: byte ^ (1 << draw.randrange(8)))


def _flip_bytes(content: bytes, draw: random.Random) -> bytes:
    for _ in range(draw.choice((1, 4, 16))):
        content = _put(content, _spot(content, draw), lambda _: draw.randrange(256))
    return content


def _put(content: bytes, at: int, change: Callable[[int], int]) -> bytes:
    if at >= len(content):
        return content
    return content[:at] + bytes([change(content[at])]) + content[at + 1 :]


def _cut(content: bytes, draw: random.Random) -> bytes:
    return content[: _spot(content, draw)]


def _zeros(content: bytes, draw: random.Random) -> bytes:
    at, length = _spot(content, draw), draw.choice((8, 64, 4096))
    return content[:at] + bytes(len(content[at : at + length])) + content[at + length :]


def _lost(content: bytes, draw: random.Random) -> bytes:
    at = _spot(content, draw)
    return content[:at] + content[at + draw.choice((1, 8, 512)) :]


def _twice(content: bytes, draw: random.Random) -> bytes:
    at, length = _spot(content, draw), draw.choice((1, 8, 512))
    return content[: at + length] + content[at:]


def _huge(content: bytes, draw: random.Random) -> bytes:
    """Eight bytes that are a very large number, or minus one."""
    at = _spot(content, draw)
    number = draw.choice((2**60, 2**40, 2**32 - 1, 2**64 - 1, 2**31))
    return content[:at] + number.to_bytes(8, draw.choice(("little", "big"))) + content[at + 8 :]


def _digits(content: bytes, draw: random.Random) -> bytes:
    """A number in text that becomes another, often a huge one."""
    at = next(
        (i for i in range(_spot(content, draw), len(content)) if content[i : i + 1].isdigit()), 0
    )
    new = draw.choice((b"9" * 18, b"-1", b"0", b"1e400", b"NaN", b"9" * 400, b"\xff"))
    return content[:at] + new + content[at + 1 :]


def _structure(content: bytes, draw: random.Random) -> bytes:
    """A value somewhere in JSON (a file, a line of it, a header) that becomes another."""
    if content[8:9] == b"{":  # .safetensors
        length = int.from_bytes(content[:8], "little")
        header = _structure(content[8 : 8 + length], draw)
        return len(header).to_bytes(8, "little") + header + content[8 + length :]
    lines = [content] if content[:2] == b"{\n" else content.split(b"\n")
    at = draw.randrange(len(lines))
    try:
        values = json.loads(lines[at])
    except (ValueError, RecursionError):
        return _digits(content, draw)
    if draw.random() < 0.02:
        deep = b"[" * 100_000
        lines[at] = deep
    else:
        lines[at] = json.dumps(_other(values, draw)).encode()
    return b"\n".join(lines)


def _other(value: Any, draw: random.Random) -> Any:
    if isinstance(value, dict) and value and draw.random() < 0.9:
        key = draw.choice(list(value))
        kind = draw.random()
        if kind < 0.1:
            return {k: v for k, v in value.items() if k != key}
        if kind < 0.15:
            return {**value, draw.choice(("x", "", "__class__", key + "x")): value[key]}
        if isinstance(value[key], str) and value[key][:1] == "{" and kind < 0.8:  # JSON in JSON
            try:
                return {**value, key: json.dumps(_other(json.loads(value[key]), draw))}
            except ValueError:
                pass
        return {**value, key: _other(value[key], draw)}
    if isinstance(value, list) and value and draw.random() < 0.8:
        at = draw.randrange(len(value))
        return [*value[:at], _other(value[at], draw), *value[at + 1 :]]
    return draw.choice(NASTY)


def _line(content: bytes, draw: random.Random) -> bytes:
    """A line of text that is gone, there twice, elsewhere, or has another value behind its `=`."""
    lines = content.split(b"\n")
    at, to = draw.randrange(len(lines)), draw.randrange(len(lines))
    key, equals, _ = lines[at].partition(b"=")
    kind = draw.random()
    if equals and kind < 0.7:
        lines[at] = key + b"= " + json.dumps(draw.choice(NASTY)).encode()
    elif kind < 0.8:
        lines[at : at + 1] = []
    elif kind < 0.9:
        lines.insert(to, lines[at])
    else:
        lines[at], lines[to] = lines[to], lines[at]
    return b"\n".join(lines)


DAMAGES: dict[str, Callable[[bytes, random.Random], bytes]] = {
    "bit": _flip_bit,
    "bytes": _flip_bytes,
    "cut": _cut,
    "zeros": _zeros,
    "lost": _lost,
    "twice": _twice,
    "huge": _huge,
    "digits": _digits,
    "structure": _structure,
    "line": _line,
}

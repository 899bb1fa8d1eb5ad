"""Commands that end in the middle of their work, at a place that a test knows."""

from typing import Any

import pytest

from dino_cli.store.embeddings.blocks import Blocks


def interrupt_after(
    blocks: int, monkeypatch: pytest.MonkeyPatch, error: BaseException | None = None
) -> None:
    """Let `dino embed` write so many blocks; at the next one comes Ctrl-C, or another error."""
    real, written = Blocks.write, []

    def write(self: Blocks, number: int, *rest: Any) -> None:
        if len(written) == blocks:
            raise error or KeyboardInterrupt
        written.append(number)
        real(self, number, *rest)

    monkeypatch.setattr(Blocks, "write", write)

"""TensorBoard events of a run, when TensorBoard is installed."""

import importlib.util
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

__all__ = ["Events"]

NOT_CURVES = ("step", "epoch")


class Events:
    """Writes the figures of each logged step as scalars into a run folder; else does nothing."""

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder if importlib.util.find_spec("tensorboard") else None
        self._writer: Any = None

    def write(self, entry: Mapping[str, Any]) -> None:
        """One line of the log; what an earlier process wrote for later steps is purged."""
        if self.folder is None:
            return
        if self._writer is None:
            from torch.utils.tensorboard import SummaryWriter  # takes seconds to import

            self._writer = SummaryWriter(str(self.folder), purge_step=entry["step"])
        try:
            for name, value in entry.items():
                if name not in NOT_CURVES and value is not None:
                    self._writer.add_scalar(name, value, entry["step"])
        except OSError:  # curves are not worth the run
            self.folder = None

    def close(self) -> None:
        if self._writer is not None:
            with suppress(OSError):
                self._writer.close()

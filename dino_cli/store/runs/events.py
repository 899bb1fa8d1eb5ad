"""TensorBoard events of a run, when TensorBoard is installed."""

import importlib.util
import threading
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
        self._hook = threading.excepthook

    def write(self, entry: Mapping[str, Any]) -> None:
        """One line of the log; what an earlier process wrote for later steps is purged."""
        if self.folder is None:
            return
        if self._writer is None:
            from torch.utils.tensorboard import SummaryWriter  # takes seconds to import

            try:
                self._writer = SummaryWriter(str(self.folder), purge_step=entry["step"])
            except (OSError, UnicodeError):  # it takes no folder whose name is not UTF-8
                self.folder = None
                return
            self._hook, threading.excepthook = threading.excepthook, self._thread_failed
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
            threading.excepthook = self._hook

    def _thread_failed(self, failure: threading.ExceptHookArgs) -> None:
        """TensorBoard writes in a thread, whose end on a full disk is nobody's news."""
        ours = type(failure.thread).__module__.startswith("tensorboard")
        if ours and failure.exc_type is not None and issubclass(failure.exc_type, OSError):
            self.folder = None
        else:
            self._hook(failure)

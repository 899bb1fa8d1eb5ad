"""What commands read: for each kind a function that makes good files, and says what reads them."""

from faults.reads import embeddings, evaluations, pictures, runs, weights  # noqa: F401 (they register readers)
from faults.reads.base import HEAD64, READERS, TRAIN, Told, command, tensors

__all__ = ["HEAD64", "READERS", "TRAIN", "Told", "command", "tensors"]

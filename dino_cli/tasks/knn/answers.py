"""What is told of the queries: accuracies, the classes' figures, and a prediction for each."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dino_cli.config.knn import KnnConfig
from dino_cli.progress import Reporter
from dino_cli.store.pictures.confusion import draw_confusion
from dino_cli.store.writing.tables import csv_table, write_skipped
from dino_cli.store.writing.targets import explain_errors
from dino_cli.tasks.knn.bank import Bank
from dino_cli.tasks.knn.hits import HitsPage
from dino_cli.tasks.knn.queries import Queries
from dino_cli.tasks.knn.score import AccuracyCounter, ClassScore
from dino_cli.tasks.knn.search import NeighborBlock, NeighborCounts, predict
from dino_cli.tasks.unreadable import nothing_read, tell_skipped

__all__ = ["Answers", "answers"]


class Answers:
    """Collects what the blocks of a search say; then gives the result.

    Predictions go to the .csv or the page that `config.output` names. Without one they are part of
    the result, unless labels that the person gave tell how good they are. named: with their
    neighbours, whatever is known. write: appends a row to the .csv.
    """

    def __init__(
        self,
        config: KnnConfig,
        bank: Bank,
        queries: Queries,
        counts: NeighborCounts,
        write: Callable[[Sequence[object]], None] | None,
        *,
        named: bool,
    ) -> None:
        self.config, self.bank, self.queries, self.counts = config, bank, queries, counts
        self.seen = 0  # queries
        self.scored = any(label in bank.numbers for label in queries.labels)
        self.accuracies = AccuracyCounter(bank, counts.ks, config.temperature)
        wanted = config.per_class or config.confusion or config.min_similarity is not None
        self.by_class = (
            ClassScore(bank, counts.predicting, config.temperature, config.min_similarity)
            if bank.classes and wanted
            else None
        )
        self.hits = HitsPage(bank.index, counts.named, config.exif) if config.page else None
        self.listed: list[Sequence[object]] | None = None
        self.named = named
        if config.output is None and (named or not (self.scored and queries.named)):
            self.listed = []
        self._keep = write if self.listed is None else self.listed.append

    def add(self, found: NeighborBlock) -> None:
        """A block of queries with their neighbours."""
        self.seen += len(found.paths)
        if self.bank.classes:
            self.accuracies.add(found)
        if self.by_class is not None:
            self.by_class.add(found)
        config, counts = self.config, self.counts
        rows = predict(
            found,
            self.bank,
            counts.predicting,
            counts.named,
            config.temperature,
            config.min_similarity,
        )
        if self.hits is not None:
            self.hits.add(found, rows if self.bank.classes else None)
        elif self._keep is not None:
            for row in rows:
                self._keep(row)

    def write(self) -> None:
        """The page, the confusion matrix and the list of unreadable files, once all is added.

        Raises `TaskError` when no query could be read.
        """
        config = self.config
        if not self.seen:
            raise nothing_read(self.queries.skipped)
        if self.hits is not None and config.output is not None:
            self.hits.write(config.output)
        if config.confusion is not None and self.by_class is not None:
            with explain_errors(config.confusion):
                draw_confusion(
                    config.confusion,
                    self.by_class.counts,
                    self.bank.classes,
                    self.counts.predicting,
                )
        if config.output is not None:
            write_skipped(config.output, self.queries.skipped)

    def result(self, reporter: Reporter) -> dict[str, Any]:
        """The figures; remarks say what they leave out."""
        config, skipped = self.config, self.queries.skipped
        if self.scored and self.accuracies.unknown and self.by_class is None:
            reporter.remark(
                f"{self.accuracies.unknown} of the {self.seen} queries have labels that are no"
                " classes of the index; the accuracies leave them out"
            )
        result: dict[str, Any] = {
            "k": self.accuracies.percent(),
            "queries": self.seen,
            "index": int(self.bank.voting.sum()),
        }
        if self.by_class is not None:
            if config.per_class:
                result["classes"] = self.by_class.per_class()
            if config.min_similarity is not None:
                result["rejection"] = self.by_class.rejection()
            if config.confusion is not None:
                result["confusion"] = str(config.confusion)
        if skipped:
            result["skipped"] = len(skipped)
            if config.output is None:
                tell_skipped(skipped, reporter)
        if config.output is not None:
            result["output"] = str(config.output)
        elif self.listed is not None:
            result["predictions"] = [self._told(row) for row in self.listed]
        return result

    def _told(self, row: Sequence[object]) -> dict[str, object]:
        keys = ("path", "predicted", "probability")
        told: dict[str, object] = {
            key: None if cell == "" else cell for key, cell in zip(keys, row, strict=False)
        }
        if self.named:
            told["neighbors"] = [
                {"path": path, "similarity": similarity}
                for path, similarity in zip(row[4::2], row[5::2], strict=True)
            ]
        return told


@contextmanager
def answers(
    config: KnnConfig, bank: Bank, queries: Queries, counts: NeighborCounts, *, named: bool
) -> Iterator[Answers]:
    """Answers whose .csv takes its name when the block succeeds."""
    if config.output is None or config.page:
        yield Answers(config, bank, queries, counts, None, named=named)
        return
    with predictions_file(config.output, counts.named) as write:
        yield Answers(config, bank, queries, counts, write, named=named)


@contextmanager
def predictions_file(output: Path, named: int) -> Iterator[Callable[[Sequence[object]], None]]:
    """A function that writes one row of predictions, with so many neighbours."""
    header = ["path", "predicted", "probability", "label"]
    for i in range(1, named + 1):
        header += [f"neighbor{i}", f"similarity{i}"]
    with explain_errors(output), csv_table(output, header) as write:
        yield write

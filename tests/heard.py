"""A reporter that keeps what a task says, for tests to read."""

from dino_cli.progress import Reporter


class Heard(Reporter):
    """remarks: the sentences in their order; done: units of all stages together."""

    def __init__(self) -> None:
        self.remarks: list[str] = []
        self.done = 0

    def remark(self, text: str) -> None:
        self.remarks.append(text)

    def advance(self, count: int = 1) -> None:
        self.done += count

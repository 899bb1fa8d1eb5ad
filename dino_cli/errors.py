"""The two errors that reach a person. Raise where you know what is wrong; the edge prints.

`UsageError` ends with exit code 2 (the command was put wrongly), `TaskError` with exit code 1 (the
command was fine, the task failed). Both are one sentence that names the value at fault and the way
out. Any other exception that reaches a person is a bug.
"""

__all__ = ["DinoError", "Interrupted", "PeerLost", "TaskError", "UsageError"]


class DinoError(Exception):
    """What happened, the value at fault and what to do about it, as one sentence.

    what: the fact, with the offending value in it ("k=0 is not a positive number").
    fix: the way out ("use -k 20"), appended after a semicolon.
    result: what was done nevertheless; a command prints it before the sentence (--json).
    told: whether another process beside this one says it.
    """

    exit_code = 1
    told = False

    def __init__(self, what: str, fix: str = "", *, result: object = None) -> None:
        self.what = what
        self.fix = fix
        self.result = result
        super().__init__(f"{what}; {fix}" if fix else what)


class TaskError(DinoError):
    """The task failed: a missing file, weights that do not fit, a full disk. Exit code 1."""


class UsageError(DinoError):
    """The command was put wrongly: an impossible value or combination of options. Exit code 2."""

    exit_code = 2


class Interrupted(DinoError):
    """Ctrl-C or SIGTERM; says what was kept and how to go on. Exit code 130."""

    exit_code = 130


class PeerLost(TaskError):
    """Another process of the same run is gone; it may have said why itself. Exit code 1."""

"""Commands run in this process, as a person would type them."""

import json
from functools import cache
from typing import Any

import typer.main
from typer.testing import CliRunner, Result

from dino_cli.cli.app import app


@cache
def command_tree() -> Any:
    """What Typer makes of our app, with all commands: a tenth of a second."""
    return typer.main.get_command(app)


def dino(*words: object, code: int = 0) -> Result:
    """`dino …`, which ends with `code` and without a traceback."""
    result = CliRunner().invoke(app, [str(word) for word in words])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output
    return result


def answer(*words: object) -> Any:
    """What `dino … --json` prints."""
    return json.loads(dino(*words, "--json", "-q").stdout)


def refusal(code: int, *words: object) -> str:
    """The last sentence of `dino …`, which ends with `code` and has no result."""
    result = dino(*words, code=code)
    assert result.stdout == ""
    return result.stderr.splitlines()[-1]


def sentence(result: Result, code: int = 1) -> str:
    """The one line that a result which ended with `code` has on stderr; nothing is on stdout."""
    assert result.exit_code == code, result.output
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1
    return result.stderr


def knn(*words: object) -> dict[str, Any]:
    """What `dino knn … --json` prints."""
    return answer("knn", *words)  # type: ignore[no-any-return]


def embed(*words: object, code: int = 0) -> Result:
    """`dino embed …`, as `dino`."""
    return dino("embed", *words, code=code)

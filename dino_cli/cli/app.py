"""The command `dino`: its subcommands, and what a person sees when something goes wrong."""

import codecs
import io
import os
import re
import sys
import time
from contextlib import suppress
from difflib import get_close_matches
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from dino_cli import __version__
from dino_cli.cli.display import printable
from dino_cli.cli.original import said_of_original
from dino_cli.errors import DinoError, Interrupted, PeerLost

__all__ = ["app"]


PASSED_ON = "dino.passed_on"
MACHINE = {  # what Python and CUDA say of the machine, and what we say
    "start new thread": "the system gives no more threads; end other programs, or use --workers 0",
    "no kernel image is available": "this torch has no kernels for this GPU; install a build of it "
    "that has, or use --device cpu",
    "busy or unavailable": "another program has the GPU for itself alone; end it, or use another "
    "--device",
}


def _passed_on(error: UnicodeError) -> tuple[str | bytes, int]:
    """A name's byte as it stands on disk; other half characters, of a JSON file, as an escape."""
    try:
        return codecs.lookup_error("surrogateescape")(error)
    except UnicodeError:
        return codecs.lookup_error("backslashreplace")(error)


codecs.register_error(PASSED_ON, _passed_on)


class Commands(TyperGroup):
    """The error policy, here so that tests which run the app in process see it too.

    Our errors print one sentence on stderr and set the exit code; Ctrl-C exits with 130; a closed
    pipe (`dino … | head`) is silent; what the system refuses or lacks is told. Options that cannot
    be parsed get one sentence too, where Typer would draw a box. Anything else is a bug and keeps
    its traceback.
    """

    def make_context(self, *arguments: Any, **options: Any) -> Any:
        try:
            return super().make_context(*arguments, **options)
        except Exception as error:
            _refuse_misuse(error)
            raise

    def invoke(self, ctx: Any) -> Any:
        # Names on disk need not be UTF-8: a table passes their bytes on, as `ls` does.
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):
                with suppress(OSError):
                    stream.reconfigure(errors=PASSED_ON)
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()
            return result
        except DinoError as error:
            if _speaks(error):
                _say(str(error) if isinstance(error, Interrupted) else f"error: {error}")
            raise typer.Exit(error.exit_code) from None
        except KeyboardInterrupt:
            if os.environ.get("RANK", "0") == "0":
                _say("interrupted")
            raise typer.Exit(130) from None
        except BrokenPipeError:
            sys.stderr.close()
            raise typer.Exit(141) from None
        except OSError as error:  # whatever no command has translated: a full disk behind stdout
            where = f"{str(error.filename)!r}" if error.filename else "what is printed"
            why = f"cannot read or write {where} ({error.strerror or error})"
            _say(f"error: {why}; check its name, its permissions and the room on the disk")
            raise typer.Exit(1) from None
        except (MemoryError, RuntimeError) as error:
            if _is_of_memory(error):
                told = "the memory is used up; ask for smaller images or a smaller --batch-size"
            elif _is_of_compiler(error):
                reason = str(error).splitlines()[0]
                told = f"torch.compile failed ({reason}); install g++, or leave out --compile"
            elif not (told := next((MACHINE[sign] for sign in MACHINE if sign in str(error)), "")):
                raise
            _say(f"error: {told}")
            raise typer.Exit(1) from None
        except Exception as error:
            _refuse_misuse(error)
            raise


def _refuse_misuse(error: Exception) -> None:
    """Say in one sentence what could not be parsed, and exit with 2; returns for other errors.

    Typer has click inside, under private names: its errors are known by what they offer.
    """
    if not hasattr(error, "format_message") or type(error).__name__ == "NoArgsIsHelpError":
        return
    context = getattr(error, "ctx", None)
    told = " ".join(error.format_message().replace("Value error, ", "").split()).rstrip(".")
    for kind, wanted in (("int(eger)?", "whole number"), ("(number|float)", "number")):
        seen = f"(Input should be|'[^']*' is not) a valid {kind}.*"  # the second before Typer 0.28
        told = re.sub(seen, f"not a {wanted}", told)
    told, _, advice = told.partition(" Did you mean ")
    advice = f"did you mean {advice}" if advice else ""
    if context and (unknown := re.match(r"No such option:? '?([^\s']+)", told)):
        known = {flag for parameter in context.command.params for flag in parameter.opts}
        possible = re.search(r"\(Possible options?: (.*)\)", told)
        close = get_close_matches(unknown[1], possible[1].split(", ") if possible else [], n=1)
        told = f"No such option '{unknown[1]}'"
        advice = f"did you mean '{close[0]}'?" if close else advice
        advice = said_of_original(unknown[1], known) or advice
    elif choices := re.search(r"'([^']*)' is not one of (.*)", told):
        close = get_close_matches(choices[1], re.findall(r"'([^']*)'", choices[2]), n=1)
        advice = f"did you mean '{close[0]}'?" if close else advice
    path = context.command_path.split()[1:] if context else []
    advice = advice or f"see {' '.join(['dino', *path])} --help"
    _say(f"error: {told[:1].lower()}{told[1:].rstrip('.')}; {advice}")
    raise typer.Exit(2) from None


def _is_of_memory(error: MemoryError | RuntimeError) -> bool:
    """Whether memory is what lacked: torch says so by RuntimeErrors, of a GPU and of the CPU."""
    words = str(error)
    signs = (
        "out of memory", "allocate memory", "size calculation overflowed",
        "ALLOC_FAILED", "Failed to CUDA",  # of cuBLAS and NCCL
    )  # fmt: skip
    return isinstance(error, MemoryError) or any(sign in words for sign in signs)


def _is_of_compiler(error: Exception) -> bool:
    """Whether `torch.compile` could not make its kernels: mostly, that there is no compiler, or no
    Triton for the GPU."""
    names = {kind.__name__ for kind in type(error).__mro__}
    return not names.isdisjoint(("BackendCompilerFailed", "TritonMissing", "GPUTooOldForTriton"))


def _speaks(error: DinoError) -> bool:
    """Whether this process of several should tell: often all fail together, for one reason.

    The first one speaks at once. The others, and whoever only lost a peer, wait a moment: the
    launcher ends them if another has failed.
    """
    rank = os.environ.get("RANK", "0")
    if not str(error) or (isinstance(error, Interrupted) and rank != "0"):
        return False
    if rank != "0" or isinstance(error, PeerLost):
        try:
            # Whoever ends before the one that tells would have the launcher end that one.
            time.sleep(10 if error.told else 6 if isinstance(error, PeerLost) else 4)
        except KeyboardInterrupt:
            return False
    return not error.told


def _say(sentence: str) -> None:
    rank = os.environ.get("RANK", "0")
    who = "dino" if rank == "0" else f"dino, process {rank}"
    line = printable(" ".join(sentence.split()))
    with suppress(OSError):  # a full disk behind stderr
        sys.stderr.write(f"{who}: {line}\n")
        sys.stderr.flush()


app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="DINO self-supervised vision transformers: train, embed, classify, look at attention.",
)


def _version(asked: bool) -> None:
    if asked:
        sys.stdout.write(f"dino {__version__}\n")
        raise typer.Exit


@app.callback()
def dino(
    version: Annotated[
        bool,
        typer.Option("--version", help="Print the version.", is_eager=True, callback=_version),
    ] = False,
) -> None:
    """DINO self-supervised vision transformers: train, embed, classify, look at attention."""


# Each module registers its command on `app`; they import no torch until the command runs.
from dino_cli.cli import (  # noqa: E402, F401
    attention,
    bench,
    demo,
    embed,
    export,
    help,
    knn,
    map,
    pca,
    report,
    train,
    weights,
)
from dino_cli.cli.eval import evaluations  # noqa: E402

app.add_typer(evaluations, name="eval")

"""What `embed` returns, also where nothing is left to do."""

from collections.abc import Mapping, Sequence
from typing import Any

from dino_cli.config.embed import EmbedConfig
from dino_cli.config.shared import Preprocessing
from dino_cli.data.listing.image_list import ImageFile
from dino_cli.errors import TaskError
from dino_cli.progress import Reporter
from dino_cli.store.writing.tables import read_skipped, skipped_path
from dino_cli.tasks.embed.append import compare_files
from dino_cli.tasks.embed.merge import EarlierExport
from dino_cli.tasks.embed.skipped import are_listed, ends_alike, readable

__all__ = ["finished", "has_places", "result_of", "unchanged"]


def has_places(base: EarlierExport) -> bool:
    """Whether the earlier export was made with `--project`."""
    return "projection" in base.export.metadata


def result_of(
    config: EmbedConfig,
    *,
    count: int,
    dim: int,
    skipped: int = 0,
    embedded: int = 0,
    seconds: float = 0.0,
) -> dict[str, Any]:
    """What `embed` returns. embedded: files whose features were made this time."""
    result = {
        "count": count,
        "dim": dim,
        "skipped": skipped,
        "seconds": round(seconds, 3),
        "images_per_second": round(embedded / seconds, 2) if seconds else 0.0,
        "output": str(config.output),
        "skipped_list": str(skipped_path(config.output)) if skipped else None,
    }
    if config.resume or config.append:
        result["embedded"] = embedded
    return result


def unchanged(config: EmbedConfig, base: EarlierExport, skipped: int = 0) -> dict[str, Any]:
    """The result where there was nothing to do."""
    dim = base.export.features.shape[-1]
    return result_of(config, count=len(base.keep), dim=dim, skipped=skipped)


def finished(
    config: EmbedConfig,
    files: Sequence[ImageFile],
    facts: Mapping[str, Any],
    p: Preprocessing,
    reporter: Reporter,
) -> dict[str, Any]:
    """The result of a run that had come to its end. Raises `TaskError` for that of another.

    Files without a row must be those that were skipped, and p, how they are read, not help.
    """
    found = compare_files(config, files, facts, reporter)
    listed = read_skipped(skipped_path(config.output))
    changed = set(found.changed)
    skipped = [file for file in found.new if file not in changed]
    if found.absent or found.copies or not are_listed(skipped, list(listed)):
        raise _finished(config, "and of other files", "add to it")
    for old, label, file in found.moved:
        if not ends_alike(old, file):  # else the same, called from elsewhere
            raise _finished(
                config, f"and {old!r} is {file.path.as_posix()!r} now", "change its row"
            )
        if label != file.label:
            what = f"and {file.path.as_posix()!r} is of class {file.label!r} now, not {label!r}"
            raise _finished(config, what, "change its row")
    if config.project and not has_places(found.base):
        raise _finished(config, "without --project", "add the places")
    if found.changed:
        what = f"and {found.changed[0].path.as_posix()!r} has changed since"
        raise _finished(config, what, "embed it again")
    if (mended := next(readable(skipped, p, config, reporter), None)) is not None:
        what = f"and {skipped[mended].path.as_posix()!r}, which was skipped, can be read now"
        raise _finished(config, what, "embed it")
    return unchanged(config, found.base, len(listed))


def _finished(config: EmbedConfig, what: str, change: str) -> TaskError:
    return TaskError(
        f"{str(config.output)!r} is finished already, {what}",
        f"{change} with --append, or start again with --overwrite",
    )

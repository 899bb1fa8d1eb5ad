"""What `embed` returns, also where nothing is left to do."""

from collections.abc import Mapping, Sequence
from typing import Any

from dino_cli.config.embed import EmbedConfig
from dino_cli.core.network.features import Kind
from dino_cli.data.listing.images import ImageFile
from dino_cli.errors import TaskError
from dino_cli.progress import Reporter
from dino_cli.store.writing.tables import skipped_path
from dino_cli.tasks.embed.append import changed_file, find_new
from dino_cli.tasks.embed.merge import EarlierExport
from dino_cli.tasks.embed.share import row_path

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
    """What `embed` returns. embedded: files that were read this time."""
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
    kinds: Sequence[Kind],
    reporter: Reporter,
) -> dict[str, Any]:
    """The result of a run that had come to its end. Raises `TaskError` for that of another."""
    base, new = find_new(config, files, facts, kinds, reporter, contents=False)
    known = set(base.export.paths)
    here = {row_path(file.path, config) for file in files}
    listed = skipped_path(config.output)
    skipped = len(listed.read_text(errors="replace").splitlines()) - 1 if listed.exists() else 0
    if known - here or len(new) > skipped:
        raise TaskError(
            f"{str(config.output)!r} is finished already, and of other files",
            "add to it with --append, or start again with --overwrite",
        )
    if config.project and not has_places(base):
        raise TaskError(
            f"{str(config.output)!r} is finished already, without --project",
            "add the places with --append, or start again with --overwrite",
        )
    changed = changed_file(config, files, base, reporter)
    if changed is not None:
        raise TaskError(
            f"{str(config.output)!r} is finished already, and {changed.path.as_posix()!r} has"
            " changed since",
            "embed it again with --append, or everything with --overwrite",
        )
    return unchanged(config, base, skipped)

"""Which pictures: from files, folders, lists and shards on the command line to a list of files."""

import glob
import os
import sys
from collections.abc import Sequence
from pathlib import Path, PurePath
from typing import TextIO

from dino_cli.config.values import counted
from dino_cli.data.decoding.arrays import ARRAY_SUFFIX
from dino_cli.data.decoding.video_frames import in_video
from dino_cli.data.listing.folder_index import pictures_below
from dino_cli.data.listing.formats import what_else
from dino_cli.data.listing.globs import expand_braces, expand_pattern, is_pattern
from dino_cli.data.listing.image_list import ImageFile, ImageList, ImageListBuilder
from dino_cli.data.listing.lists import read_list, read_stdin
from dino_cli.data.listing.remote_shards import fetch_shards, is_url
from dino_cli.data.listing.shards import in_shard, is_shard, open_shard
from dino_cli.errors import TaskError
from dino_cli.progress import Reporter

__all__ = ["absolute_argument", "check_exists", "find_images"]


def find_images(
    arguments: Sequence[str],
    *,
    stdin: TextIO | None = None,
    reporter: Reporter | None = None,
    null: bool = False,
    offline: bool = False,
) -> ImageList:
    """The pictures that the arguments name, in their order; those of a folder sorted by path.

    - A folder is searched recursively for the suffixes of pictures, and for `.npy` arrays when it
      holds none; hidden names are passed over, links to folders followed. The label is the first
      folder below it (ImageFolder's convention).
    - A `.tar` shard is searched in the same way, arrays too (`data.listing.shards`); a companion
      `.cls` or short `.txt` tells the label before a folder does. Its pictures lie below the
      shard's own name.
    - The URL of a shard is fetched first. A pattern with `*`, `?`, `[…]`, `{a,b}` or `{00..99}`
      stands for the files that it matches.
    - A `.txt` list has one path per line, relative to the list's folder, and optionally a tab and
      the label; a list without labels takes the parent folders' names if there are several. `-`
      reads such a list from stdin, relative to the working folder. Listed files that do not exist
      fail when they are read, as damaged ones do. null: lists are paths alone, each ended by a NUL
      byte, as `find -print0` writes them.
    - Any other file is taken as a picture, whatever its suffix, without a label.

    A file named twice is taken once. Raises `TaskError` for a path that does not exist and for an
    argument that holds no picture.
    """
    reporter = reporter or Reporter()
    names = [name for argument in arguments for name in _several(argument, reporter, offline)]
    shards = {name for name in names if is_shard(name) and os.path.isfile(name)}
    # Only what may name a file twice is looked at file by file: several shards do not.
    alone = len(names) == 1 or all(name in shards for name in names)
    builder = ImageListBuilder(distinct=not alone or _is_list(names))
    opened: set[str] = set()
    for name in names:
        if name in shards:
            if os.path.abspath(name) not in opened:
                _add_shard(builder, name, reporter)
            opened.add(os.path.abspath(name))
        else:
            _add(builder, name, stdin if stdin is not None else sys.stdin, null)
    if builder.repeated:
        times = counted(builder.repeated, "picture is", "pictures are")
        reporter.remark(f"{times} named more than once; each is used once")
    return builder.build()


def check_exists(argument: str) -> None:
    """Raises `TaskError` for what is no file, folder, member of a shard or frame of a video."""
    path = Path(argument)
    try:
        there = path.exists() or in_shard(path) or in_video(path)
    except (OSError, ValueError) as error:
        raise _unreadable(argument, error) from None
    if not there:
        raise TaskError(f"{argument!r} does not exist", "check the path")


def absolute_argument(argument: str) -> str:
    """What means the same from any folder: a pattern stays one, as do a URL and `-`."""
    if argument == "-" or (is_url(argument) and not os.path.lexists(argument)):
        return argument
    here = os.getcwd()
    if not is_pattern(argument):
        short = os.path.abspath(argument)  # which `..` behind a link would make another
        same = os.path.realpath(short) == os.path.realpath(argument)
        return short if same else os.path.join(here, argument)
    if any(map(os.path.isabs, expand_braces(argument))) or expand_braces(here) != [here]:
        return argument  # no folder can be written before it
    return os.path.join(glob.escape(here), argument)


def _several(argument: str, reporter: Reporter, offline: bool) -> list[str]:
    """The files and folders behind one argument."""
    try:
        if is_url(argument) and not os.path.lexists(argument):
            return fetch_shards(expand_braces(argument), reporter, offline=offline)
        if argument == "-" or not is_pattern(argument):
            return [argument]
    except (OSError, ValueError) as error:
        raise _unreadable(argument, error) from None
    found = expand_pattern(argument)
    if not found:
        raise TaskError(f"no file matches {argument!r}", "check the pattern")
    return found


def _is_list(names: Sequence[str]) -> bool:
    return any(name == "-" or name.lower().endswith(".txt") for name in names)


def _add(builder: ImageListBuilder, argument: str, stdin: TextIO, null: bool) -> None:
    if argument == "-":
        builder.add_rows(read_stdin(stdin, null=null))
        return
    path = Path(argument)
    try:
        if path.is_dir():
            _add_folder(builder, path)
            return
        check_exists(argument)
        if path.exists() and not path.is_file():
            raise TaskError(f"{argument!r} is neither a file nor a folder", "name one of these")
        if path.is_file() and path.suffix.lower() == ".txt":
            builder.add_rows(read_list(path, null=null))
            return
    except (OSError, ValueError) as error:
        raise _unreadable(argument, error) from None
    if told := what_else(path.name):
        raise TaskError(f"{argument!r} is {told[0]}, no picture", told[1])
    builder.add([ImageFile(path, "", PurePath(path.name))])


def _add_folder(builder: ImageListBuilder, folder: Path) -> None:
    any_found = False
    for suffixes in (None, {ARRAY_SUFFIX}):
        for block in () if any_found else pictures_below(str(folder), suffixes):
            any_found = True
            label = block.folder.partition("/")[0]
            builder.add_folder(str(folder / block.folder), block.folder, block.names, [label])
    if not any_found:
        if any(name.endswith(".tar") for name in os.listdir(folder)):
            raise TaskError(
                f"no pictures in the folder {str(folder)!r}, but shards",
                f"name them: '{folder}/*.tar'",
            )
        raise TaskError(
            f"no pictures in the folder {str(folder)!r} or below it",
            "files with suffixes such as .jpg, .png, .webp or .tif were looked for,"
            " hidden ones left out; name files of other suffixes one by one or in a .txt list",
        )


def _add_shard(builder: ImageListBuilder, path: str, reporter: Reporter) -> None:
    """Pictures of a tar, by the folders inside."""
    try:
        shard = open_shard(path)
    except OSError as error:
        raise _unreadable(path, error) from None
    count = len(shard.names)
    if shard.cut:
        reporter.remark(f"{path!r} is cut off; the {count} pictures before that are used")
    top = Path(path)
    labels = list(shard.labels)
    if b"/" not in shard.names.buffer:
        builder.add_folder(str(top), top.stem, shard.names, labels, shard.label_ids)
        return
    builder.add(
        ImageFile(top / name, labels[label], PurePath(top.stem, name))
        for name, label in zip(shard.names, shard.label_ids.tolist(), strict=True)
    )


def _unreadable(argument: str, error: OSError | ValueError) -> TaskError:
    reason = getattr(error, "strerror", None) or str(error)
    return TaskError(f"cannot read {argument!r}: {reason}", "check the path")

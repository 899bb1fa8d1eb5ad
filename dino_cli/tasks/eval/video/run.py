"""`dino eval video`: a video's first mask carried on, measured as DAVIS-2017 (paper, table 5)."""

import json
import re
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import PurePath
from typing import Any

import torch

from dino_cli.config.eval_video import EvalVideoConfig
from dino_cli.config.setting import flag_of
from dino_cli.config.shared import IMAGENET_STD, Preprocessing
from dino_cli.config.values import difference
from dino_cli.data.decoding.pixel_limit import within_pixel_limit
from dino_cli.errors import Interrupted, TaskError, UsageError
from dino_cli.progress import Reporter
from dino_cli.runtime import usable_threads
from dino_cli.store.benchmarks.davis import Video, find_videos
from dino_cli.store.writing.folders import ResultFolders
from dino_cli.store.writing.targets import cannot_write
from dino_cli.tasks.eval.report import PAGE, RESULT, check_report, report, write_report
from dino_cli.tasks.eval.video.examples import examples
from dino_cli.tasks.eval.video.labels import RegionScores, carry
from dino_cli.tasks.eval.video.results import VideoScore, figures, is_score, score_table, tables
from dino_cli.tasks.model import Model, open_model
from dino_cli.tasks.provenance import model_facts

__all__ = ["figures", "tables", "video"]

SCORES = "scores.json"  # beside a video's masks: what resuming needs
NAMES = ("utf-8", "surrogateescape")  # names on disk need not be UTF-8
OWN = re.compile(rf".+\.png|{re.escape(SCORES)}")
# The original's own standard deviation for video, .228 where ImageNet's is .229
STD = (0.228, 0.224, 0.225)


@within_pixel_limit
def video(config: EvalVideoConfig, reporter: Reporter) -> dict[str, Any]:
    """Carry the first mask of every video on and measure it.

    Returns the official evaluator's table (`J&F-Mean`, `J-Mean`, …, `per_object`), as fractions;
    None where no frame has a true mask. `zero_motion` is the same of the first mask, copied to
    every frame. With an output each video's folder appears whole; a stopped run goes on by
    `resume`. Raises `Interrupted` after Ctrl-C; after any other error nothing new is left.
    """
    _check(config)
    videos = find_videos(config.root, config.split, config.resolution)
    if config.output is None and not any(len(v.masks) > 2 for v in videos):
        raise UsageError(
            f"no video of {str(config.root)!r} has a true mask between its first and its last one,"
            " so there is nothing to measure",
            "use -o to keep the masks",
        )
    folders = _folders(config, videos)
    model = open_model(config, reporter)
    if config.image_size < model.backbone.patch_size:
        raise UsageError(
            f"--image-size {config.image_size} is smaller than one patch of"
            f" {model.backbone.patch_size} pixels",
            "use --image-size 480",
        )
    p = preprocessing(model)
    made_with = {
        **model.identity,
        **model_facts(config),
        "mean": list(p.mean),
        "std": list(p.std),
        "resolution": config.resolution,
        "image_size": config.image_size,
        "n_last_frames": config.n_last_frames,
        "size_mask_neighborhood": config.size_mask_neighborhood,
        "topk": config.topk,
    }
    done = _done(config, videos, made_with)
    if done:
        reporter.remark(f"{len(done)} of {len(videos)} videos are done already")
    try:
        _carry_all(videos, done, model, p, config, folders, made_with, reporter)
        result = _result([done[v.name] for v in videos], model)
        if config.output is not None:
            result["output"] = str(config.output)
            with report(config.output) as stage:
                shown = examples(config.output, videos, result["per_object"])
                write_report(stage, "video", result, figures(result), tables(result), shown)
        return result
    except KeyboardInterrupt:
        kept = "" if config.output is None else "; no video was done, nothing is kept"
        if done and folders is not None:
            kept = (
                f": {len(done)} of {len(videos)} videos are done and kept in"
                f" {str(config.output)!r}; the same command with --resume goes on"
            )
        raise Interrupted(f"interrupted{kept}") from None
    except BaseException as error:
        if folders is not None:
            folders.discard()
        if config.output is None or not isinstance(error, OSError):
            raise
        raise cannot_write(config.output, error) from None


def preprocessing(model: Model) -> Preprocessing:
    """The model's mean and deviation; where that is ImageNet's, the original's for video."""
    p = model.preprocessing
    return replace(p, std=STD) if p.std == IMAGENET_STD else p


def _check(config: EvalVideoConfig) -> None:
    for name, least, good in (
        ("image_size", 1, 480),
        ("n_last_frames", 0, 7),
        ("size_mask_neighborhood", 0, 12),
        ("topk", 1, 5),
        ("batch_size", 1, 4),
        ("workers", 0, 8),
    ):
        value, flag = getattr(config, name), flag_of(name)
        if value < least:
            raise UsageError(f"{flag} {value} is less than {least}", f"use {flag} {good}")
    if config.resume and config.output is None:
        raise UsageError("--resume needs the folder to go on in", "name it with -o")
    if config.resume and config.overwrite:
        raise UsageError("--resume and --overwrite contradict each other", "give one of them")


def _folders(config: EvalVideoConfig, videos: Sequence[Video]) -> ResultFolders | None:
    """Where the masks go, checked. Names of folders that the report needs are refused."""
    if config.output is None:
        return None
    if taken := [v.name for v in videos if v.name in (RESULT, PAGE)]:
        raise TaskError(f"no folder can be named {taken[0]!r} here", "rename that video")
    check_report(config.output, overwrite=config.overwrite or config.resume)
    folders = ResultFolders(config.output, OWN)
    if not config.resume:
        folders.check([PurePath(v.name) for v in videos], overwrite=config.overwrite)
    return folders


def _done(
    config: EvalVideoConfig, videos: Sequence[Video], made_with: Mapping[str, Any]
) -> dict[str, VideoScore]:
    """The videos that an earlier run finished. Raises `TaskError` if it was put differently."""
    done: dict[str, VideoScore] = {}
    if not config.resume or config.output is None:
        return done
    for v in videos:
        path = config.output / v.name / SCORES
        if not path.is_file():
            continue
        try:
            kept = json.loads(path.read_bytes().decode(*NAMES))
            theirs = kept["made_with"]
            score = VideoScore(
                **kept["score"]
                | {name: RegionScores(**kept["score"][name]) for name in ("measured", "still")}
            )
            if not is_score(score, v.name) or not isinstance(theirs, dict):
                raise ValueError("not what was written there")
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise TaskError(f"cannot read {str(path)!r}: {error}", "remove that folder") from None
        theirs = {"resolution": made_with["resolution"], **theirs}  # which older ones do not tell
        if different := difference(theirs, made_with):
            raise TaskError(
                f"{str(path.parent)!r} was made with {different}",
                "use the same options, or another -o",
            )
        if score.frames != len(v.frames):
            raise TaskError(
                f"{str(path.parent)!r} was made of {score.frames} frames, but there are"
                f" {len(v.frames)}",
                "remove that folder, or use another -o",
            )
        done[v.name] = score
    return done


def _carry_all(
    videos: Sequence[Video],
    done: dict[str, VideoScore],
    model: Model,
    p: Preprocessing,
    config: EvalVideoConfig,
    folders: ResultFolders | None,
    made_with: Mapping[str, Any],
    reporter: Reporter,
) -> None:
    """Fill `done`, video by video."""
    left = [v for v in videos if v.name not in done]
    if folders is not None and config.resume:
        # What stands there without scores is of no finished run; it is named, not replaced.
        folders.check([PurePath(v.name) for v in left], overwrite=False)
    pool = ThreadPoolExecutor(usable_threads(config.workers))
    before = sum(done[v.name].frames for v in videos if v.name in done)
    total = before + sum(len(v.frames) for v in left)
    reporter.stage("carrying labels", total, "frames", before)
    try:
        for v in left:
            started = time.monotonic()
            with torch.inference_mode():
                carried = carry(v, model, p, config, pool, reporter)
            seconds = time.monotonic() - started
            score = VideoScore(
                v.name, carried.objects, len(v.frames), seconds, carried.measured, carried.still
            )
            if folders is not None:
                kept = {"made_with": made_with, "score": _plain(score)}
                scores = json.dumps(kept, indent=1, ensure_ascii=False).encode(*NAMES)
                folders.write(PurePath(v.name), {**carried.files, SCORES: scores})
            done[v.name] = score
    finally:
        pool.shutdown(cancel_futures=True)
    reporter.finish()


def _plain(score: VideoScore) -> dict[str, Any]:
    return {**vars(score), "measured": vars(score.measured), "still": vars(score.still)}


def _result(scores: Sequence[VideoScore], model: Model) -> dict[str, Any]:
    frames, seconds = sum(s.frames for s in scores), sum(s.seconds for s in scores)
    return {
        **score_table([(s, s.measured) for s in scores]),
        "zero_motion": score_table([(s, s.still) for s in scores]),
        "videos": len(scores),
        "objects": sum(s.objects for s in scores),
        "frames": frames,
        "seconds_per_frame": round(seconds / frames, 4),
        **model.identity,
    }

"""What a run keeps, and how it goes on."""

import os
from collections.abc import Mapping
from dataclasses import asdict, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch

from dino_cli.config.setting import to_json
from dino_cli.config.train import TrainConfig
from dino_cli.core.network.architecture import Architecture, architecture_to_json
from dino_cli.core.training.optim import load_optimizer
from dino_cli.core.training.step import Networks
from dino_cli.data.listing.image_list import ImageList
from dino_cli.data.listing.images import absolute_argument, find_images
from dino_cli.data.views.batches import BatchPlan
from dino_cli.errors import TaskError
from dino_cli.progress import Reporter
from dino_cli.store.runs.checkpoints import FORMAT, CheckpointWriter, load_checkpoint
from dino_cli.store.runs.folder import RunFolder, resume_command
from dino_cli.store.writing.atomic import atomic_write, sweep_beside
from dino_cli.store.writing.targets import already_exists, check_parent, explain_errors
from dino_cli.tasks.train.setup import attention_size_of, preprocessing_of

__all__ = [
    "about",
    "create_run",
    "digest_of",
    "list_on_stdin",
    "restore_run",
    "save_run",
    "update_run",
]


def about(config: TrainConfig, architecture: Architecture) -> dict[str, Any]:
    """What a reader of the weights needs to know."""
    return {
        "architecture": architecture_to_json(architecture),
        "preprocessing": asdict(preprocessing_of(config)),
        "attention_size": attention_size_of(config),
    }


def digest_of(files: ImageList) -> str:
    """SHA-256 of the images' names below what was given, in order: the same images elsewhere have
    the same."""
    digest = sha256()
    for name in files.relatives():
        digest.update(name.encode(errors="surrogateescape") + b"\0")
    return digest.hexdigest()


def list_on_stdin(config: TrainConfig, reporter: Reporter | None) -> bytes:
    """What stdin lists, as a list of absolute paths that can be read from anywhere, and again."""
    files = find_images(["-"], reporter=reporter, null=config.null)
    end = "\0" if config.null else "\n"
    paths = "".join([f"{path}{end}" for path in files.absolutes()])
    return paths.encode(errors="surrogateescape")


def counts_of(plan: BatchPlan) -> dict[str, int]:
    """What config.json says of the run's length."""
    return {"images": plan.images, "total_batch": plan.total_batch, "steps": plan.steps}


def create_run(
    folder: RunFolder,
    config: TrainConfig,
    described: Mapping[str, Any],
    plan: BatchPlan,
    listed: bytes | None,
) -> None:
    """A new run folder with its configuration. Raises when it holds something already.

    listed: what stdin listed, which becomes images.txt, and the run's data in place of `-`.
    """
    path = folder.path
    if config.output is not None:
        check_parent(path)
    with explain_errors(path, "choose another -o"):
        sweep_beside(folder.config)  # of a process killed before there was a run
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            go_on = f"go on with {resume_command(path)}, or " if folder.config.is_file() else ""
            raise already_exists([path], f"{go_on}choose another -o")
        path.mkdir(parents=config.output is None, exist_ok=True)
        values = to_json(_from_anywhere(_with_list(folder, config, listed)))
        folder.write_config({**described, "run": counts_of(plan), "train": values})


def update_run(
    folder: RunFolder,
    config: TrainConfig,
    described: Mapping[str, Any],
    plan: BatchPlan,
    listed: bytes | None,
) -> None:
    """config.json of a run that goes on, with what the person changed. listed: as `create_run`."""
    with explain_errors(folder.path, "make it writable"):
        kept = _from_anywhere(_with_list(folder, config, listed))
        values = {**to_json(kept), "resume": None}
        folder.write_config({**described, "run": counts_of(plan), "train": values})


def _with_list(folder: RunFolder, config: TrainConfig, listed: bytes | None) -> TrainConfig:
    if listed is None:
        return config
    with atomic_write(folder.images) as temporary:
        temporary.write_bytes(listed)
    kept = str(folder.images.absolute())
    return replace(config, data=tuple(kept if name == "-" else name for name in config.data))


def _from_anywhere(config: TrainConfig) -> TrainConfig:
    """With paths that are the same when the run goes on from another working folder."""
    judged, weights = config.eval_data, config.init_from
    if weights is not None and os.path.exists(weights):  # else it is a model's name
        weights = absolute_argument(weights)
    return replace(
        config,
        data=tuple(map(absolute_argument, config.data)),
        eval_data=judged and Path(absolute_argument(str(judged))),
        init_from=weights,
    )


def save_run(
    writer: CheckpointWriter,
    networks: Networks,
    scaler: torch.amp.GradScaler | None,
    plan: BatchPlan,
    done: int,
    epoch_loss: torch.Tensor,
    described: Mapping[str, Any],
    *,
    digest: str,
    keep_every: int,
    best: bool,
) -> None:
    """Have everything written as it is after `done` steps; returns once it is copied.

    Every `keep_every` epochs (0: never) the checkpoint also stays as checkpoint-<epoch>.pt. best:
    the teacher is the best so far.
    """
    state = {
        "format": FORMAT,
        "step": done,
        "student": networks.student.state_dict(),
        "teacher": networks.teacher.state_dict(),
        "centre": networks.centre,
        "optimizer": networks.optimizer.state_dict(),
        "scaler": scaler.state_dict() if scaler else None,
        "epoch_loss": epoch_loss,
        "images": plan.images,
        "total_batch": plan.total_batch,
        "names": digest,
    }
    epoch, rest = divmod(done, plan.steps_per_epoch)
    kept = keep_every > 0 and rest == 0 and epoch % keep_every == 0
    writer.save(
        state,
        networks.teacher.backbone.state_dict(),
        described,
        keep_as=f"checkpoint-{epoch:04}.pt" if kept else None,
        best=best,
    )


def restore_run(
    path: Path,
    networks: Networks,
    scaler: torch.amp.GradScaler | None,
    plan: BatchPlan,
    epoch_loss: torch.Tensor,
    *,
    digest: str,
) -> int:
    """Load the checkpoint at `path` into the networks; the step to go on with."""
    state = load_checkpoint(path)
    try:
        for name, now in (("images", plan.images), ("total_batch", plan.total_batch)):
            if state[name] != now:
                raise TaskError(
                    f"the run has {name.replace('_', ' ')} {state[name]}, now it would be {now}",
                    "resume with the same data, and with --batch-size × processes × --accumulate "
                    "unchanged",
                )
        if state.get("names", digest) != digest:  # runs of earlier versions have none
            raise TaskError(
                f"the run's {plan.images} images have other names now",
                "resume with the same images under the same names",
            )
        networks.student.load_state_dict(state["student"])
        networks.teacher.load_state_dict(state["teacher"])
        load_optimizer(networks.optimizer, state["optimizer"])
        networks.centre.copy_(state["centre"])
        epoch_loss.copy_(state["epoch_loss"])
        if scaler and state["scaler"]:
            scaler.load_state_dict(state["scaler"])
        return int(state["step"])
    except (RuntimeError, KeyError, ValueError, TypeError) as error:
        first = str(error).strip().splitlines()[-1].strip()
        raise TaskError(
            f"{path} does not fit its config.json ({first})", "restore config.json or start anew"
        ) from None

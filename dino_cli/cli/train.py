"""`dino train`."""

import json
import os
import shlex
from dataclasses import replace
from typing import Any

from dino_cli.cli.app import app
from dino_cli.cli.display import Terminal
from dino_cli.cli.options import command
from dino_cli.config.resolve import resolve
from dino_cli.config.setting import arguments, to_json
from dino_cli.config.train import TrainConfig


@command(app, "train", TrainConfig)
def train(config: TrainConfig, terminal: Terminal) -> dict[str, Any] | None:
    """Train a vision transformer without labels, by self-distillation.

    Leaves RUN/ with config.json, log.jsonl, checkpoint.pt, teacher.safetensors and loss.png.
    `dino train photos/ -o runs/first` trains on any folder; `torchrun --nproc-per-node 8 -m
    dino_cli train …` on eight GPUs.
    """
    command_line = ["train", *terminal.switches, *arguments(config, terminal.given)]
    config = resolve(config, terminal.given)
    if config.print_sbatch:
        from dino_cli.tasks.train.processes import job_script

        script = job_script(config, command_line)
        terminal.line(script.rstrip())
        return {"sbatch": script}
    if config.dry_run:
        from dino_cli.tasks.train.check import check, check_views
        from dino_cli.tasks.train.setup import architecture_of, warmup_epochs_of

        check(config)
        check_views(architecture_of(config), config)
        config = replace(config, warmup_epochs=warmup_epochs_of(config))
        if terminal.json:
            from dino_cli.tasks.train.cost import cost_of

            return {**to_json(config), "cost": cost_of(config, terminal)}
        terminal.line(json.dumps(to_json(config), indent=2))
        return None
    from dino_cli.tasks.train.processes import train_in_processes
    from dino_cli.tasks.train.run import train as run

    if train_in_processes(config, command_line):
        return None  # the first of them has spoken
    result = run(config, terminal)
    if os.environ.get("RANK", "0") != "0":
        return None
    steps = "steps" if result["steps"] == result["of"] else f"of {result['of']} steps"
    terminal.line(
        f"{result['run']}: {result['steps']} {steps}"
        + (f", loss {result['loss']:.4f}" if result["loss"] is not None else "")
        + f", {result['images_per_second']} images/s"
        + (f", {result['unreadable']} unreadable files" if result["unreadable"] else "")
    )
    if result["steps"] < result["of"]:  # by --max-steps, which the run remembers
        words = ["dino", "train", "--resume", result["run"], "--max-steps", str(result["of"])]
        terminal.line(f"go on with: {shlex.join(words)}")
    return result

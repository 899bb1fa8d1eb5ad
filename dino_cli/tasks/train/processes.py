"""`dino train` on several GPUs of this machine, and as a job for many."""

import shlex
import time
from collections.abc import Sequence
from pathlib import Path

from dino_cli.config.train import TrainConfig
from dino_cli.errors import UsageError
from dino_cli.runtime import gpus_asked, launch, processes_wanted
from dino_cli.store.runs.folder import resume_command
from dino_cli.tasks.train.check import check, check_views
from dino_cli.tasks.train.setup import architecture_of

__all__ = ["default_run", "job_script", "train_in_processes"]


def default_run() -> Path:
    """runs/<time>."""
    return Path("runs") / time.strftime("%Y%m%d-%H%M%S")


def train_in_processes(config: TrainConfig, command: Sequence[str]) -> bool:
    """Run the command line `dino COMMAND` once per GPU that is to be used, and wait.

    False, and nothing done, where one process is enough. The first of the processes says what came
    of it. Raises as `launch`.
    """
    count = processes_wanted(config.gpus, config.device)
    if count == 1:
        return False
    check(config)
    check_views(architecture_of(config), config)
    run = config.resume or config.output
    if run is None:
        run = default_run()
        run.parent.mkdir(exist_ok=True)
        command = [command[0], "-o", str(run), *command[1:]]
    launch(count, command, go_on=f"go on with: {resume_command(run)}")
    return True


JOB = """\
#!/bin/bash
#SBATCH --job-name=dino
#SBATCH --nodes=1                 # more nodes: raise this, nothing else changes
#SBATCH --ntasks-per-node=1       # one launcher a node; it starts a process per GPU
#SBATCH --gpus-per-node={gpus}
#SBATCH --cpus-per-task={cores}
#SBATCH --time=24:00:00
#SBATCH --signal=USR1@300         # five minutes before the end: save a checkpoint and stop
#SBATCH --requeue
#SBATCH --output=dino-%j.log

run={run}
if [ -f "$run/config.json" ]; then
  command=({resumed})
else
  command=({command})
fi
export TORCH_ELASTIC_SHUTDOWN_TIMEOUT=240  # seconds to save, where the launcher gives 30
head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
srun torchrun --nnodes "$SLURM_JOB_NUM_NODES" --nproc-per-node {gpus} \\
  --rdzv-backend c10d --rdzv-endpoint "$head:29500" --rdzv-id "$SLURM_JOB_ID" \\
  --signals-to-handle SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1 --max-restarts 3 \\
  -m dino_cli "${{command[@]}}"
status=$?

# Stopped with a checkpoint but not finished: queue the same job again, and it goes on.
restarts=${{SLURM_RESTART_COUNT:-0}}
if [ "$status" -ne 0 ] && [ -f "$run/checkpoint.pt" ] && [ "$restarts" -lt 20 ]; then
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
"""


def job_script(config: TrainConfig, command: Sequence[str]) -> str:
    """A text for `sbatch`: runs `dino COMMAND` on all GPUs of a node, goes on after a stop.

    Raises `UsageError` for data that a job cannot have, and for what no run could have.
    """
    if "-" in config.data:
        raise UsageError("a job has no list on stdin", "name a .txt list instead of -")
    check(config)
    gpus = 8 if config.gpus == "all" else gpus_asked(config.gpus)
    run = config.resume or config.output
    # --json is about how the script is printed here.
    arguments = [word for word in command if word not in ("--print-sbatch", "--json")]
    if run is None:
        run = Path("runs/dino")
        arguments = [arguments[0], "-o", str(run), *arguments[1:]]
    # A run that began as this job knows its options; one to go on with gets those of this time.
    resumed = shlex.join(arguments) if config.resume else 'train --resume "$run"'
    return JOB.format(
        gpus=gpus,
        cores=gpus * (config.workers + 1),
        run=shlex.quote(str(run)),
        command=shlex.join(arguments),
        resumed=resumed,
    )

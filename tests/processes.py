"""`dino` in processes of its own: started, watched, ended."""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from small_run import losses

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--rdzv-backend", "c10d"]
TORCHRUN += ["--rdzv-endpoint", "localhost:0"]


def start(*words, command=(sys.executable, "-m", "dino_cli"), stdin=None):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [*command, *map(str, words)],
        env=environment,
        stdin=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process, code=0):
    stdout, stderr = process.communicate(timeout=300)
    assert process.returncode == code, stderr
    assert "Traceback" not in stderr
    return stdout, stderr


def wait_for_step(run, step, process):
    deadline = time.monotonic() + 200
    while time.monotonic() < deadline and process.poll() is None:
        if any(s >= step for s in losses(run)):
            return
        time.sleep(0.05)
    pytest.fail(f"step {step} was never logged: {process.communicate()}")


def children_of(process):
    """The processes of the run, by rank."""
    found = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(path.read_text().rsplit(") ", 1)[1].split()[1])
            environment = (path.parent / "environ").read_bytes().split(b"\0")
        except (OSError, ValueError, IndexError):
            continue
        rank = [v for v in environment if v.startswith(b"RANK=")]
        if parent == process.pid and rank:
            found[int(rank[0][5:])] = int(path.parent.name)
    return found


def by_hand(*words, ranks=2, script=("-m", "dino_cli"), each=lambda rank: ()):
    """The processes of a run without a launcher, which would end the others when one ends."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    processes = []
    for rank in range(ranks):
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "MASTER_ADDR": "localhost"}
        environment |= {"MASTER_PORT": port, "WORLD_SIZE": str(ranks), "RANK": str(rank)}
        processes.append(
            subprocess.Popen(
                [sys.executable, *script, *map(str, words), *map(str, each(rank))],
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
    return processes


def dino(*words, code=0):
    """`dino …` in a process of its own, until it ends with `code`: stdout and stderr."""
    return finish(start(*words), code)

"""What a signal leaves behind: whole results or none, and no temporary files."""

import os
import signal
import subprocess
import sys
import time

import pytest

from dino_cli.progress import Reporter
from dino_cli.tasks.demo.draw import draw_folder


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "drawn"
    draw_folder(
        folder, count=400, size=192, seed=0, style="final", reporter=Reporter(), masks=False
    )
    return folder / "images"


def interrupted(place, number, *arguments, sign):
    """Start a command, send the signal once `sign(place)` is true, wait for its end."""
    process = subprocess.Popen(
        [sys.executable, "-m", "dino_cli", *map(str, arguments)],
        cwd=place,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 60
    while not sign(place) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(number)
    _, stderr = process.communicate(timeout=60)
    return process.returncode, stderr


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_embed_leaves_nothing_but_what_is_done(images, tmp_path, number):
    code, stderr = interrupted(
        tmp_path, number, "embed", images, "--model", "dino_demo", "--batch-size", "1",
        "-o", "f.npy", sign=lambda place: any(place.iterdir()),
    )  # fmt: skip
    assert code == 130, stderr
    assert "Traceback" not in stderr
    if "--resume" in stderr:  # whole blocks, which the next call need not compute
        assert [path.name for path in tmp_path.iterdir()] == ["f.npy.part"]
        names = {path.name for path in (tmp_path / "f.npy.part").iterdir()} - {"run.json"}
        assert names
        assert all(name.removesuffix(".npz").isdigit() for name in names)
    else:
        assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_while_the_command_ends_says_nothing(number):
    code = (
        "import os, sys\nfrom dino_cli import __main__ as dino\n"
        f"dino._end_workers = lambda code: os.kill(os.getpid(), {int(number)})\n"
        "sys.argv = ['dino', '--version']\ndino.main()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("dino ")


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_attention_keeps_whole_results_only(images, tmp_path, number):
    code, stderr = interrupted(
        tmp_path, number, "attention", images, "--model", "dino_demo", "-o", "out",
        sign=lambda place: len(list(place.glob("out/*/*/grid.png"))) >= 3,
    )  # fmt: skip
    assert code == 130, stderr
    assert "Traceback" not in stderr
    folders = [p.parent for p in tmp_path.rglob("attention.npy")]
    assert 3 <= len(folders) < 400
    wanted = {path.name for path in folders[0].iterdir()}
    assert all({path.name for path in folder.iterdir()} == wanted for folder in folders)
    assert list(tmp_path.rglob(".*")) == []

"""log.jsonl: each line there at once, and each step once when a run goes on."""

import json

from dino_cli.store.runs.log import Log


def line(step):
    return {"step": step, "epoch": step // 4, "loss": float(step)}


def written(path, steps, *, resume_step=0):
    """The lines of a log after those steps of a run of four an epoch."""
    log = Log(path, resume_step=resume_step, steps_per_epoch=4)
    for step in steps:
        log.write(line(step))
        if step % 4 == 3:
            log.write({"epoch": step // 4, "epoch_loss": 1.0})
        assert json.loads(path.read_text().splitlines()[-1])["epoch"] == step // 4  # there at once
    log.close()
    return Log.read(path)


def test_each_step_and_epoch_stands_there_once_wherever_the_run_goes_on(tmp_path):
    path = tmp_path / "log.jsonl"
    whole = written(path, range(12))
    for resume_step in (12, 11, 9, 8, 7, 4, 1, 0):
        kept = [e for e in whole if "step" in e and e["step"] < resume_step]
        kept += [{"epoch": n, "epoch_loss": 1.0} for n in range(resume_step // 4)]
        Log(path, resume_step=resume_step, steps_per_epoch=4).close()
        found = Log.read(path)
        assert sorted(map(json.dumps, found)) == sorted(map(json.dumps, kept)), resume_step
        assert written(path, range(resume_step, 12), resume_step=resume_step) == whole


def test_half_a_line_of_a_killed_process_is_left_out(tmp_path):
    path = tmp_path / "log.jsonl"
    whole = written(path, range(3))
    with path.open("ab") as file:
        file.write(b'{"step": 3, "epoch": 0, "loss": 1.\xff')
    assert Log.read(path) == whole
    assert written(path, [3], resume_step=3)[:3] == whole

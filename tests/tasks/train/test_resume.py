"""Runs that go on, from where they ended or what stopped them, and what is no such run."""

import html
import json
import shlex
import shutil
from hashlib import sha256
from pathlib import Path

import pytest
import torch
from in_process import answer, dino, refusal
from safetensors.torch import load_file
from small_run import losses
from typer.testing import CliRunner

from dino_cli.cli.app import app
from dino_cli.data.listing.images import find_images
from dino_cli.store.runs.checkpoints import load_checkpoint
from dino_cli.store.runs.log import Log
from dino_cli.store.runs.watched import read_attention, read_photos
from dino_cli.tasks.train.folder import digest_of


def test_a_run_may_be_named_by_its_checkpoint(images, small, tmp_path):
    """And for other files it is said what goes on from them."""
    run = tmp_path / "run"
    dino("train", images, "--config", small, "-o", run, "--max-steps", "1")
    dino("train", "--resume", run / "checkpoint.pt", "--max-steps", "2")
    assert len(losses(run)) == 2
    said = refusal(1, "train", "--resume", run / "teacher.safetensors")
    assert f"; use --resume {run}, or for a new run that begins with these weights" in said
    assert said.endswith(f" --init-from {run / 'teacher.safetensors'}")
    other = tmp_path / "a full.pth"
    shutil.copy(run / "checkpoint.pt", other)
    said = refusal(1, "train", "--resume", other)
    way_out = f"to go on from its weights use --init-from '{other}'"
    assert said == f"dino: error: {other} is a file and not a run folder; {way_out}"


def test_resuming_in_the_middle_of_an_epoch_changes_no_float(images, small, tmp_path):
    flags = ["--config", small, "--drop-path", "0.3", "--center-init", "batch"]
    dino("train", images, *flags, "-o", tmp_path / "whole")
    part = tmp_path / "part"
    first = dino("train", images, *flags, "-o", part, "--max-steps", "6")
    told, go_on = first.stdout.splitlines()
    assert told.startswith(f"{part}: 6 of 12 steps, loss ")
    assert go_on == f"go on with: dino train --resume {part} --max-steps 12"
    done = dino(*go_on.split()[4:], "--workers", "1").stdout
    assert done.startswith(f"{part}: 12 steps, ")
    assert len(done.splitlines()) == 1
    assert losses(part) == losses(tmp_path / "whole")
    epochs = [
        [e["epoch_loss"] for e in Log.read(tmp_path / name / "log.jsonl") if "epoch_loss" in e]
        for name in ("whole", "part")
    ]
    assert epochs[0] == epochs[1]
    assert len(epochs[0]) == 3
    a, b = (
        torch.load(tmp_path / name / "checkpoint.pt", weights_only=True)
        for name in ("whole", "part")
    )
    for key in ("student", "teacher"):
        assert all(torch.equal(a[key][name], b[key][name]) for name in a[key])
    kept = load_file(part / "teacher.safetensors")
    assert all(torch.equal(a["teacher"][f"backbone.{name}"], kept[name]) for name in kept)


@pytest.mark.slow
@pytest.mark.parametrize("null", [False, True])
def test_a_run_of_a_list_on_stdin_goes_on_without_it(images, small, tmp_path, monkeypatch, null):
    """From another folder too; the same losses as of a run that was not stopped."""
    monkeypatch.chdir(images)
    names = sorted(str(path) for path in Path().rglob("*.png"))
    listed = "".join(name + ("\0" if null else "\n") for name in names)
    words = ["train", "-", "--config", str(small), *(["--null"] if null else [])]
    for name, steps in {"whole": "6", "part": "3"}.items():
        command = [*words, "-o", str(tmp_path / name), "--max-steps", steps]
        result = CliRunner().invoke(app, command, input=listed)
        assert result.exit_code == 0, result.output
    monkeypatch.chdir(tmp_path)
    dino("train", "--resume", "part", "--max-steps", "6")
    assert losses(tmp_path / "part") == losses(tmp_path / "whole")
    dino("train", images, "--config", small, "-o", "folder", "--max-steps", "6")
    assert losses(tmp_path / "folder") == losses(tmp_path / "whole")
    result = CliRunner().invoke(app, [*words, "--print-sbatch"])
    assert result.exit_code == 2
    assert "name a .txt list instead of -" in result.stderr


@pytest.mark.slow
def test_a_run_goes_on_from_another_folder(images, small, tmp_path, monkeypatch):
    """Also one that an earlier version began, which names its data as they were typed."""
    shutil.copytree(images, tmp_path / "p[1]/q")
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path / "p[1]")
    start = ["--config", small, "--max-steps", "1"]
    dino("train", "q", *start, "-o", "../first")
    flags = [*start, "--init-from", "../first"]
    for name, data in (("whole", "q"), ("run", "q"), ("some", "q/*/*.p{ng,nm}")):
        dino("train", data, *flags, "-o", f"../{name}", "--eval-data", "q")
    kept = json.loads((tmp_path / "some/config.json").read_text())["train"]
    assert kept["init_from"] == f"{tmp_path}/first"
    assert kept["data"] == [f"{tmp_path}/p[[]1]/q/*/*.p{{ng,nm}}"]
    dino("train", "--resume", "../whole", "--max-steps", "2", "--init-from", "../first")

    monkeypatch.chdir(tmp_path / "other")
    for name in ("run", "some"):
        (tmp_path / name / "checkpoint.pt").unlink()
        dino("train", "--resume", f"../{name}", "--max-steps", "2")
    assert losses(tmp_path / "run") == losses(tmp_path / "whole")
    page = json.loads(dino("report", "../run", "--json").stdout)["page"]
    text, kept = html.unescape(Path(page).read_text()), f"'{tmp_path}/p[1]/q'"
    assert f"--eval-data {kept}" in text
    assert f" -- {kept}" in text

    values = json.loads((tmp_path / "run/config.json").read_text())
    values["train"] |= {"data": ["q"], "eval_data": "q"}
    (tmp_path / "run/config.json").write_text(json.dumps(values))
    again = ["train", "--resume", "../run", "--max-steps", "3"]
    for given, told in (
        ([], "the run '../run' cannot find its DATA from here: 'q' does not exist; "
         "give DATA again: dino train DATA --resume ../run"),
        (["gone"], "error: 'gone' does not exist; check the path"),
        (["../p[1]/q"], "cannot find its --eval-data from here: 'q' does not exist; "
         "give --eval-data again: dino train --eval-data DIR --resume ../run"),
    ):  # fmt: skip
        assert told in dino(*again, *given, code=1).stderr.splitlines()[-1]
    monkeypatch.chdir(tmp_path / "p[1]")
    dino(*again)
    assert len(losses(tmp_path / "run")) == 3


@pytest.mark.parametrize("flags", [(), pytest.param(("--use-bn-in-head",), marks=pytest.mark.slow)])
def test_batch_norm_that_sees_other_batches_is_told(images, small, tmp_path, flags):
    run = tmp_path / "run"
    dino("train", images, "--config", small, "-o", run, "--max-steps", "1", *flags)
    words = ["--batch-size", "4", "--accumulate", "2", "--max-steps", "2"]
    said = " ".join(dino("train", "--resume", run, *words).stderr.split())
    told = "batch norm takes 4 images at a time from here on, not 8"
    assert (told in said) == bool(flags)
    assert "koleo" not in said
    assert "batch norm" not in dino("train", "--resume", run, "--max-steps", "3").stderr


def test_a_damaged_checkpoint_is_not_kept_in_place_of_the_one_before(images, small, tmp_path):
    run = tmp_path / "run"
    dino("train", images, "--config", small, "-o", run, "--save-every", "1", "--max-steps", "2")
    (run / "checkpoint.pt").unlink()
    (run / "checkpoint.pt").write_bytes(b"damaged")
    assert not list(run.glob("checkpoint-*.pt"))  # of whole epochs
    said = dino("train", "--resume", run).stderr
    assert "checkpoint.pt is damaged; trying the one before it" in " ".join(said.split())
    assert [load_checkpoint(run / f"checkpoint{i}.pt")["step"] for i in ("", ".1")] == [2, 1]


def test_the_total_batch_stays_whatever_is_asked_for(images, small, tmp_path):
    run = tmp_path / "run"
    dino("train", images, "--config", small, "-o", run, "--max-steps", "1")
    words = ["train", "--resume", run, "--max-steps", "2"]
    told = "the total batch stays 8: 8 images × 1 process × 1 accumulated"
    result = dino(*words, "--batch-size", "16", "--accumulate", "2")
    assert told in " ".join(result.stderr.split())
    said = refusal(1, *words, "--batch-size", "3")
    assert "the run's total batch of 8 does not divide into batches of 3 on 1 process; " in said
    assert load_checkpoint(run / "checkpoint.pt")["total_batch"] == 8
    kept = json.loads((run / "config.json").read_text())["train"]
    assert (kept["batch_size"], kept["accumulate"], kept["resume"]) == (8, 1, None)


@pytest.mark.slow
def test_koleo_that_compares_other_images_is_told(images, small, tmp_path):
    run = tmp_path / "run"
    words = ["--config", small, "-o", run, "--max-steps", "1", "--koleo-weight", "0.1"]
    dino("train", images, *words)
    words = ["--batch-size", "4", "--accumulate", "2", "--max-steps", "2"]
    said = " ".join(dino("train", "--resume", run, *words).stderr.split())
    assert "--koleo-weight compares 4 images with each other from here on, not 8" in said
    assert "koleo" not in dino("train", "--resume", run, "--max-steps", "3").stderr


def test_a_run_that_is_at_its_end_says_whether_there_is_more(images, small, tmp_path):
    run = tmp_path / "run"
    dino("train", images, "--config", small, "-o", run, "--epochs", "1", "--max-steps", "1")
    told = "the run is at step 1 of 1 already; --max-steps may raise that"
    assert told in dino("train", "--resume", run).stderr
    dino("train", "--resume", run, "--max-steps", "100")
    told = "the run is at step 4 of 4 already; it is complete"
    assert told in dino("train", "--resume", run).stderr
    for steps in (4, 2):
        result = answer("train", "--resume", run, "--max-steps", steps)
        assert (result["steps"], result["epochs"], result["of"]) == (4, 1, 4)
        assert (result["images_per_second"], result["loss"]) == (0, None)


def test_the_way_on_is_a_command_for_a_shell(images, small, tmp_path):
    run = tmp_path / "a run"
    words = ["train", images, "--config", small, "-o", run, "--max-steps", "1", "--epochs", "1"]
    words += ["--log-every", "2"]
    way = dino(*words).stdout.splitlines()[-1].removeprefix("go on with: dino ")
    resume = shlex.join(["dino", "train", "--resume", str(run)])
    assert f"go on with {resume}, or choose another -o" in dino(*words, code=1).stderr
    dino(*shlex.split(way))
    assert list(losses(run)) == [0, 2, 3]  # every other one, and the last


@pytest.mark.slow
def test_photos_to_watch_may_change_when_a_run_goes_on(images, small, tmp_path):
    run = tmp_path / "run"
    words = ["--config", small, "-o", run, "--watch", "0", "--max-steps", "4"]
    dino("train", images, *words)
    for watched, steps in ((3, "8"), (2, "12")):
        dino("train", "--resume", run, "--watch", watched, "--max-steps", steps)
        assert len(read_photos(run / "watch")) == watched
        found = read_attention(run / "watch")
        assert 0 not in found  # it was not looked at then
        assert len(found[int(steps) // 4]) == watched


def test_resume_refuses_what_would_be_another_run(images, small, tmp_path):
    run = tmp_path / "run"
    dino("train", images, "--config", small, "-o", run, "--max-steps", "1")
    for flag, value, was in (("--out-dim", "32", "64"), ("--seed", "1", "0")):
        result = dino("train", "--resume", run, flag, value, code=2)
        assert f"{flag} cannot change in a resumed run (it was {was})" in result.stderr
    moved = tmp_path / "moved"
    shutil.copytree(images, moved)
    dino("train", moved, "--resume", run)  # the same images elsewhere
    one = min(moved.rglob("*.png"))
    other = one.rename(one.with_name("other.png"))
    for said in ("33 images have other names now", "has images 33, now it would be 32"):
        result = dino("train", moved, "--resume", run, code=1)
        assert said in " ".join(result.stderr.split())
        other.unlink(missing_ok=True)
    result = dino("train", images, "-o", run, "--config", small, code=1)
    assert f"{str(run)!r} already exists; go on with dino train --resume {run}" in result.stderr
    for taken in (small, moved):  # a file, and a folder that is no run
        result = dino("train", images, "-o", taken, "--config", small, code=1)
        assert f"{str(taken)!r} already exists; choose another -o" in result.stderr


def test_a_run_killed_before_its_first_checkpoint_starts_again(images, small, tmp_path):
    dino("train", images, "--config", small, "-o", tmp_path / "whole", "--max-steps", "2")
    run = tmp_path / "run"
    dino("train", images, "--config", small, "-o", run, "--max-steps", "2")
    (run / "checkpoint.pt").unlink()
    (run / ".checkpoint.pt.abcd1234.part").write_bytes(b"half of one")
    (run / ".teacher-best.safetensors.abcd1234.part").write_bytes(b"half of one")
    result = dino("train", "--resume", run)
    assert "no checkpoint yet" in result.stderr
    assert losses(run) == losses(tmp_path / "whole")
    assert not list(run.glob(".*"))


def test_a_run_killed_before_it_had_a_configuration_leaves_its_folder_free(images, small, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    (run / ".config.json.abcd1234.part").write_text("{")
    dino("train", images, "--config", small, "-o", run, "--max-steps", "1")
    assert not list(run.glob(".*"))


def test_the_names_of_images_are_digested_as_by_earlier_versions(tmp_path):
    """Else their runs would be told that the images have other names."""
    for name in ("b/a.png", "bc.png"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.touch()
    files = find_images([str(tmp_path)])
    assert digest_of(files) == sha256(b"b/a.png\0bc.png\0").hexdigest()


def test_a_run_from_weights_resumes_without_them(images, small, tmp_path):
    first, run = tmp_path / "first", tmp_path / "run"
    dino("train", images, "--config", small, "-o", first, "--max-steps", "1")
    flags = ["--max-steps", "2", "--init-from", first]
    dino("train", images, "--config", small, "-o", run, *flags)
    first.rename(tmp_path / "moved")
    dino("train", "--resume", run, "--max-steps", "3")
    assert len(losses(run)) == 3


def test_a_run_that_overflows_stops_at_its_last_good_checkpoint(images, small, tmp_path):
    """A learning rate that overflows: the log has no NaN, and a smaller one saves the run."""
    run = tmp_path / "run"
    dino("train", images, "--config", small, "-o", run, "--max-steps", "4")
    good = torch.load(run / "checkpoint.pt", weights_only=True)
    result = dino(
        "train", "--resume", run, "--max-steps", "12", "--lr", "1e38", "--clip-grad", "0", code=1
    )
    said = " ".join(result.stderr.split())
    assert "from here on with --lr 1e+38, not 0.0005" in said
    assert "was not finite in 3 steps in a row" in said
    assert f"go on with: dino train --resume {run} --lr 5e+37" in said
    text = (run / "log.jsonl").read_text()
    assert "NaN" not in text
    assert "Infinity" not in text
    kept = torch.load(run / "checkpoint.pt", weights_only=True)
    assert kept["step"] in (4, 5)  # one step with the large rate is finite still
    if kept["step"] == 4:
        assert all(torch.equal(good["student"][k], kept["student"][k]) for k in good["student"])
    dino("train", "--resume", run, "--lr", "0.0005", "--clip-grad", "3")
    assert len(losses(run)) == 12


@pytest.mark.slow
def test_fp16_that_always_overflows_stops_the_run(images, small, tmp_path, monkeypatch):
    """With a scale that no halving brings down in time; a few overflows are the normal search."""
    run = "dino_cli.tasks.train.run"
    monkeypatch.setattr(f"{run}.choose_precision", lambda *_: "fp16")  # a CPU is refused it else
    scaler = torch.amp.GradScaler
    words = ["train", images, "--config", small, "--epochs", "10", "--drop-path", "0"]
    monkeypatch.setattr(torch.amp, "GradScaler", lambda d: scaler(d, init_scale=2.0**24))
    dino(*words, "-o", tmp_path / "good", "--max-steps", "24")
    monkeypatch.setattr(torch.amp, "GradScaler", lambda d: scaler(d, init_scale=2.0**120))
    result = dino(*words, "-o", tmp_path / "bad", code=1)
    said = " ".join(result.stderr.split())
    assert "gradients overflow in fp16, in 20 steps in a row up to step 19" in said
    assert f"go on with: dino train --resume {tmp_path / 'bad'} --precision bf16" in said


@pytest.mark.slow
def test_the_scale_of_fp16_goes_on_too(images, small, tmp_path, monkeypatch):
    """From one that is far too large and halves at each step."""
    run = "dino_cli.tasks.train.run"
    monkeypatch.setattr(f"{run}.choose_precision", lambda *_: "fp16")  # a CPU is refused it else
    scaler = torch.amp.GradScaler
    monkeypatch.setattr(torch.amp, "GradScaler", lambda d: scaler(d, init_scale=2.0**60))
    words = ["train", images, "--config", small, "--drop-path", "0", "-o"]
    dino(*words, tmp_path / "whole", "--max-steps", "5")
    dino(*words, tmp_path / "part", "--max-steps", "3")
    dino("train", "--resume", tmp_path / "part", "--max-steps", "5")
    a, b = (load_checkpoint(tmp_path / name / "checkpoint.pt") for name in ("whole", "part"))
    assert a["scaler"] == b["scaler"]
    assert b["scaler"]["scale"] == 2.0**55
    assert losses(tmp_path / "part") == losses(tmp_path / "whole")


def test_a_finished_run_says_so(images, small, tmp_path):
    run = tmp_path / "run"
    dino("train", images, "--config", small, "-o", run, "--max-steps", "2")
    result = dino("train", "--resume", run)
    assert "at step 2 of 2 already" in result.stderr
    assert len(losses(run)) == 2

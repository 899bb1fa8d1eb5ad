"""Several results appear together, or not at all."""

from pathlib import Path

import pytest

from dino_cli.errors import TaskError
from dino_cli.store.writing import staging
from dino_cli.store.writing.staging import stage_results
from dino_cli.store.writing.targets import check_free

NAMES = ("folder", "page.html")


def fill(stage, text):
    (stage / "folder").mkdir()
    (stage / "folder" / "file").write_text(text)
    (stage / "scratch").write_text("not for anybody")
    (stage / "page.html").write_text(text)


def everything(root):
    return {
        p.relative_to(root).as_posix(): p.read_text()
        for p in sorted(root.rglob("*"))
        if p.is_file()
    }


def test_results_take_their_names_and_the_rest_stays(tmp_path):
    output = tmp_path / "out"
    with stage_results(output, NAMES) as stage:
        fill(stage, "one")
        assert not output.exists()
    assert everything(tmp_path) == {"out/folder/file": "one", "out/page.html": "one"}

    (output / "mine").write_text("kept")
    with stage_results(output, NAMES) as stage:
        fill(stage, "two")
    assert everything(tmp_path) == {
        "out/folder/file": "two",
        "out/mine": "kept",
        "out/page.html": "two",
    }


def test_a_file_that_is_replaced_is_there_at_every_instant(tmp_path, monkeypatch):
    with stage_results(tmp_path / "out", NAMES) as stage:
        fill(stage, "one")
    replace, seen = Path.replace, []

    def replaced(self, target):
        seen.append(target.name if target.exists() else "")
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", replaced)
    with stage_results(tmp_path / "out", NAMES) as stage:
        fill(stage, "two")
    assert seen == ["", "page.html"]  # a folder has to be moved away


def test_what_a_killed_process_left_does_not_replace_what_is_newer(tmp_path):
    (left := tmp_path / "out" / ".results.abcdefgh.part").mkdir(parents=True)
    (left / "old-page.html").write_text("old")
    (tmp_path / "out" / "page.html").write_text("newer")
    with stage_results(tmp_path / "out", ["other"]) as stage:
        (stage / "other").write_text("new")
    assert everything(tmp_path) == {"out/other": "new", "out/page.html": "newer"}


def test_a_folder_that_is_there_may_be_a_file_system_of_its_own(tmp_path):
    (output := tmp_path / "out").mkdir()
    with stage_results(output, NAMES) as stage:
        assert stage.parent == output  # from elsewhere nothing could be moved into it
        fill(stage, "one")
    assert sorted(p.name for p in output.iterdir()) == ["folder", "page.html"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_after_an_error_all_is_as_it_was(tmp_path, error):
    output = tmp_path / "out"

    def half():
        with stage_results(output, NAMES) as stage:
            fill(stage, "half")
            raise error

    with pytest.raises(error):
        half()
    assert list(tmp_path.iterdir()) == []


def test_an_error_while_moving_puts_everything_back(tmp_path, monkeypatch):
    output = tmp_path / "out"
    with stage_results(output, NAMES) as stage:
        fill(stage, "one")
    before = everything(tmp_path)
    real = staging._replace

    def failing(stage, output, name, moved):
        if name == "page.html":
            raise OSError(28, "No space left on device")
        real(stage, output, name, moved)

    monkeypatch.setattr(staging, "_replace", failing)
    with pytest.raises(TaskError, match="No space left"), stage_results(output, NAMES) as stage:
        fill(stage, "two")
    assert everything(tmp_path) == before
    with (
        pytest.raises(TaskError, match="No space left"),
        stage_results(tmp_path / "new", NAMES) as stage,
    ):
        fill(stage, "two")
    assert everything(tmp_path) == before
    assert not (tmp_path / "new").exists()


def test_what_stands_in_the_way_is_named(tmp_path):
    with pytest.raises(TaskError, match=r"no-such.* does not exist"):
        check_free(tmp_path / "no-such" / "out", NAMES, overwrite=False)
    (tmp_path / "file").write_text("")
    with pytest.raises(TaskError, match="is a file"):
        check_free(tmp_path / "file", NAMES, overwrite=True)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "other").write_text("")
    check_free(tmp_path / "out", NAMES, overwrite=False)
    (tmp_path / "out" / "page.html").write_text("")
    with pytest.raises(TaskError, match=r"page\.html.*already exists.*--overwrite"):
        check_free(tmp_path / "out", NAMES, overwrite=False)
    check_free(tmp_path / "out", NAMES, overwrite=True)

"""Ground truth of landmarks: found, read from both formats, refused when it is none."""

import json
import pickle
from pathlib import Path

import pytest

from dino_cli.errors import TaskError
from dino_cli.store.benchmarks.ground_truth import find_ground_truth, image_paths, read_ground_truth

TRUTH = {
    "imlist": ["a", "b", "c"],
    "qimlist": ["q", "r"],
    "gnd": [{"easy": [0], "hard": [2], "junk": [1]}, {"easy": [1], "hard": [], "bbx": [0]}],
}


def test_both_formats_say_the_same(tmp_path: Path) -> None:
    (tmp_path / "gnd_x.json").write_text(json.dumps(TRUTH))
    (tmp_path / "gnd_x.pkl").write_bytes(pickle.dumps(TRUTH))
    assert find_ground_truth(tmp_path) == tmp_path / "gnd_x.json"
    one, other = (read_ground_truth(tmp_path / f"gnd_x.{s}") for s in ("json", "pkl"))
    assert (one.images, one.queries) == (TRUTH["imlist"], TRUTH["qimlist"])
    assert [(t.easy, t.hard, t.junk) for t in one.truth] == [([0], [2], [1]), ([1], [], [])]
    assert (one.images, one.queries, one.truth) == (other.images, other.queries, other.truth)


def test_none_and_several(tmp_path: Path) -> None:
    assert find_ground_truth(tmp_path) is None
    for name in ("gnd_x.json", "gnd_y.pkl"):
        (tmp_path / name).write_text("{}")
    with pytest.raises(TaskError, match=r"several ground truths, gnd_x.json and gnd_y.pkl"):
        find_ground_truth(tmp_path)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("[", "cannot read"),
        ("[" * 100_000, "cannot read"),
        ("[]", "no ground truth"),
        ("7", "no ground truth"),
        (json.dumps({**TRUTH, "imlist": []}), "imlist is no list of names"),
        (json.dumps({**TRUTH, "imlist": [1]}), "imlist is no list of names"),
        (json.dumps({**TRUTH, "gnd": 3}), "no ground truth"),
        (json.dumps({**TRUTH, "gnd": [3, 4]}), "no ground truth"),
        (json.dumps({**TRUTH, "gnd": TRUTH["gnd"][:1]}), "2 queries, but ground truth for 1"),
        (json.dumps({**TRUTH, "gnd": [{"easy": [3]}] * 2}), "easy names 3, which is none of 3"),
        (json.dumps({**TRUTH, "gnd": [{"hard": [-1]}] * 2}), "hard names -1"),
        (json.dumps({**TRUTH, "gnd": [{"junk": [0.5]}] * 2}), "junk names 0.5"),
        (json.dumps({**TRUTH, "gnd": [{"junk": "0"}] * 2}), "junk is no list"),
    ],
)
def test_what_is_no_ground_truth(tmp_path: Path, content: str, reason: str) -> None:
    path = tmp_path / "gnd_x.json"
    path.write_text(content)
    with pytest.raises(TaskError, match=reason):
        read_ground_truth(path)


def test_images_by_name(tmp_path: Path) -> None:
    for name in ("a.jpg", "b.x.png", "c.jpeg"):
        (tmp_path / name).touch()
    found = image_paths(tmp_path, ["a", "b.x", "c.jpeg"])
    assert [path.name for path in found] == ["a.jpg", "b.x.png", "c.jpeg"]
    with pytest.raises(TaskError, match="the image 'd' of the ground truth is not in"):
        image_paths(tmp_path, ["d"])

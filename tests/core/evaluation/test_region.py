"""Region and contour measures against the official evaluator's numbers and by hand."""

import math
import os
from pathlib import Path

import numpy as np
import pytest
from golden_files import Golden, eval_golden_folder
from PIL import Image

from dino_cli.core.evaluation.region import (
    boundary,
    contour_accuracy,
    region_similarity,
    statistics,
)

FOLDER = eval_golden_folder()
GOLDEN = Golden(FOLDER)
DAVIS = Path(os.environ.get("DINO_DAVIS_DIR", "no-davis"), "Annotations", "480p")
EXACT = 1e-9


@pytest.fixture(scope="module")
def maps():
    with np.load(FOLDER / "davis.npz") as file:
        return dict(file)


def pair(maps, name):
    return maps[f"gt.{name}"].astype(bool), maps[f"pred.{name}"].astype(bool)


@pytest.mark.golden
@pytest.mark.parametrize("case", GOLDEN.json("davis")["pairs"], ids=str)
def test_pairs_of_masks(maps, case):
    truth, predicted = pair(maps, case["name"])
    assert region_similarity(truth, predicted) == pytest.approx(case["J"], abs=EXACT)
    assert contour_accuracy(truth, predicted) == pytest.approx(case["F"], abs=EXACT)


@pytest.mark.golden
def test_void_pixels_and_other_tolerances(maps):
    facts = GOLDEN.json("davis")
    void, case = maps["void"].astype(bool), facts["void_pair"]
    truth, predicted = pair(maps, case["pair"])
    assert region_similarity(truth, predicted, void) == pytest.approx(case["J"], abs=EXACT)
    assert contour_accuracy(truth, predicted, void) == pytest.approx(case["F"], abs=EXACT)
    for case in facts["other_bound_th"]:
        truth, predicted = pair(maps, case["pair"])
        ours = contour_accuracy(truth, predicted, tolerance=case["bound_th"])
        assert ours == pytest.approx(case["F"], abs=EXACT)


@pytest.mark.golden
def test_statistics_over_frames():
    for case in GOLDEN.json("davis")["statistics"]:
        ours = statistics(case["values"])
        for name in ("mean", "recall", "decay"):
            assert getattr(ours, name) == pytest.approx(case[name], abs=EXACT)


def real(path):
    return np.asarray(Image.open(DAVIS / path)) > 127


def moved(mask, dy, dx):
    out = np.zeros_like(mask)
    h, w = mask.shape
    down, right = slice(max(0, dy), h + min(0, dy)), slice(max(0, dx), w + min(0, dx))
    up, left = slice(max(0, -dy), h + min(0, -dy)), slice(max(0, -dx), w + min(0, -dx))
    out[down, right] = mask[up, left]
    return out


@pytest.mark.golden
@pytest.mark.skipif(not DAVIS.is_dir(), reason="DINO_DAVIS_DIR names no DAVIS-2017")
def test_real_masks():
    facts = GOLDEN.json("davis")
    for case in facts["real_pairs"]:
        truth = real(case["gt"])
        predicted = moved(truth, case["dy"], case["dx"]) if "dy" in case else real(case["pred"])
        assert region_similarity(truth, predicted) == pytest.approx(case["J"], abs=EXACT)
        assert contour_accuracy(truth, predicted) == pytest.approx(case["F"], abs=EXACT)
    for case in facts["real_sequences"]:
        paths = sorted(Path(DAVIS, case["sequence"]).glob("*.png"))
        first = real(paths[0])
        truths = [real(path) for path in paths[1:-1]]
        for name, measure in (("J", region_similarity), ("F", contour_accuracy)):
            values = [measure(truth, first) for truth in truths]
            np.testing.assert_allclose(values, case[name], atol=EXACT)
            s = statistics(values)
            expected = case[f"{name}_stats"]
            assert (s.mean, s.recall, s.decay) == pytest.approx(
                (expected["M"], expected["R"], expected["D"]), abs=EXACT
            )


def slow_contour(truth, predicted, tolerance=0.008):
    """Every pixel of a contour looks for one of the other within the radius."""
    radius = tolerance if tolerance >= 1 else math.ceil(tolerance * math.hypot(*truth.shape))
    ours, theirs = np.argwhere(boundary(predicted)), np.argwhere(boundary(truth))
    apart = ((ours[:, None] - theirs[None]) ** 2).sum(axis=2) <= radius**2
    precision, recall = apart.any(axis=1).mean(), apart.any(axis=0).mean()
    return 2 * precision * recall / (precision + recall)


def test_contours_against_all_distances():
    rng = np.random.default_rng(0)
    noise = np.asarray(
        Image.fromarray(rng.integers(0, 255, (2, 8, 12), dtype=np.uint8)[0]).resize((300, 200))
    )
    truth = noise > 128
    for shift, tolerance in ((1, 0.008), (3, 1), (9, 0.008)):
        predicted = moved(noise, shift, -shift) > 120
        ours = contour_accuracy(truth, predicted, tolerance=tolerance)
        assert ours == pytest.approx(slow_contour(truth, predicted, tolerance))


def test_contours_that_are_nowhere_near_do_not_fit():
    truth, predicted = np.zeros((2, 40, 60), bool)
    truth[2:6, 2:6] = predicted[30:36, 50:56] = True
    assert contour_accuracy(truth, predicted) == 0


def test_void_pixels_are_in_neither_mask():
    truth, predicted, void = np.random.default_rng(0).random((3, 30, 40)) < 0.5
    given, without = (truth, predicted, void), (truth & ~void, predicted & ~void)
    for measure in (region_similarity, contour_accuracy):
        assert measure(*given) == measure(*without) != measure(truth, predicted)


def test_boundary_of_a_square():
    mask = np.zeros((4, 5), bool)
    mask[1:3, 1:3] = True
    assert boundary(mask).astype(int).tolist() == [
        [1, 1, 1, 0, 0],
        [1, 0, 1, 0, 0],
        [1, 1, 1, 0, 0],
        [0, 0, 0, 0, 0],
    ]


def test_few_frames():
    one = statistics([0.7])
    assert (one.mean, one.recall, one.decay) == (0.7, 1.0, 0.0)
    assert statistics([0.5, 0.6]).recall == 0.5  # one half is not above it
    with pytest.raises(ValueError, match="no frame"):
        statistics([])


def test_more_frames_than_a_byte_counts():
    values = np.linspace(1, 0, 1001)
    assert statistics(values).decay == pytest.approx(0.75)

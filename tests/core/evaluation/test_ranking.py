"""Average precision against the benchmarks' own numbers and against their definition by hand."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from golden_files import Golden, eval_golden_folder

from dino_cli.core.evaluation.ranking import average_precision, positive_ranks, precision_at

GOLDEN = Golden(eval_golden_folder())
EXACT = 1e-9
LISTS = {  # difficulty: positives, ignored
    "easy": (("easy",), ("junk", "hard")),
    "medium": (("easy", "hard"), ("junk",)),
    "hard": (("hard",), ("junk", "easy")),
}


@pytest.mark.golden
def test_ranks_of_raw_descriptors():
    files = GOLDEN.tensors("retrieval")
    database, queries = (F.normalize(files[name], dim=1) for name in ("database", "queries"))
    similarity = database @ queries.T
    ours, theirs = (
        similarity.sort(dim=0, descending=True).values,
        similarity.gather(0, files["ranks"]),
    )
    torch.testing.assert_close(theirs, ours, atol=1e-6, rtol=0)


@pytest.mark.golden
@pytest.mark.parametrize("difficulty", LISTS)
def test_precision_of_the_landmark_benchmarks(difficulty):
    facts, order = GOLDEN.json("retrieval"), GOLDEN.tensors("retrieval")["ranks"].numpy()
    expected, (positive, ignored) = facts["results"][difficulty], LISTS[difficulty]
    precisions, shares = [], []
    for i, truth in enumerate(facts["gnd"]):
        wanted, left = ([i for name in names for i in truth[name]] for names in (positive, ignored))
        if not wanted:
            assert expected["aps"][i] is None
            continue
        ranks = positive_ranks(order[:, i], wanted, left)
        precisions.append(average_precision(ranks, len(wanted)))
        shares.append([precision_at(k, ranks) for k in facts["k"]])
        assert precisions[-1] == pytest.approx(expected["aps"][i], abs=EXACT)
        assert shares[-1] == pytest.approx(expected["p_at_k"][i], abs=EXACT)
    assert np.mean(precisions) == pytest.approx(expected["map"], abs=EXACT)
    assert np.mean(shares, axis=0) == pytest.approx(expected["mp_at_k"], abs=EXACT)


@pytest.mark.golden
def test_average_precision_of_given_ranks():
    cases = [*GOLDEN.json("retrieval")["compute_ap"], *GOLDEN.json("copies")["score_ap"]]
    assert len(cases) > 2
    for case in cases:
        ours = average_precision(case["ranks"], case["nres"])
        assert ours == pytest.approx(case["ap"], abs=EXACT)


def test_average_precision_is_the_area_under_the_curve():
    rng = np.random.default_rng(0)
    for positives in (1, 3, 10):
        ranks = np.sort(rng.choice(50, positives, replace=False))
        # Precision after each image; a trapezoid wherever recall rises. Before the first image the
        # precision counts as 1.
        hit = np.isin(np.arange(50), ranks)
        precision = np.concatenate([[1.0], np.cumsum(hit) / np.arange(1, 51)])
        area = sum((precision[r] + precision[r + 1]) / 2 for r in ranks) / positives
        assert average_precision(ranks, positives) == pytest.approx(area)
    with pytest.raises(ValueError, match="without positives"):
        average_precision([], 0)


def test_ignored_images_leave_the_ranking():
    rng = np.random.default_rng(1)
    for _ in range(20):
        order = rng.permutation(30)
        positives, ignored = np.split(rng.choice(30, 12, replace=False), [4])
        left = [image for image in order if image not in ignored]
        expected = [rank for rank, image in enumerate(left) if image in positives]
        assert positive_ranks(order, positives, ignored).tolist() == expected


def test_precision_stops_at_the_last_positive():
    ranks = np.array([0, 2])
    assert precision_at(1, ranks) == 1
    assert precision_at(2, ranks) == 0.5
    assert precision_at(10, ranks) == pytest.approx(2 / 3)

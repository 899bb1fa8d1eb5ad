"""Linear classifiers in files."""

import pytest
import torch
from safetensors.torch import save_file

from dino_cli.errors import TaskError
from dino_cli.store.classifier import Classifier, read_classifier, write_classifier

WEIGHT, BIAS = torch.arange(6.0).reshape(2, 3), torch.tensor([1.0, -1.0])


@pytest.mark.parametrize("prefix", ["module.linear.", "linear.", "module.", ""])
def test_the_originals_layout(tmp_path, prefix):
    tensors = {f"{prefix}weight": WEIGHT, f"{prefix}bias": BIAS}
    whole = {"epoch": 7, "state_dict": tensors, "best_acc": 77.0, "optimizer": {"state": {}}}
    for name, content in (("plain.pth", tensors), ("checkpoint.pth.tar", whole)):
        torch.save(content, tmp_path / name)
        found = read_classifier(tmp_path / name)
        assert found.weight.tolist() == WEIGHT.tolist()
        assert found.bias.tolist() == BIAS.tolist()
        assert found.facts == {}


def test_our_own_keeps_what_made_it(tmp_path):
    facts = {"classes": ["a", "ü"], "n_last_blocks": 4, "avgpool": False}
    write_classifier(tmp_path / "c.safetensors", Classifier(WEIGHT, BIAS, facts))
    found = read_classifier(tmp_path / "c.safetensors")
    assert found.weight.tolist() == WEIGHT.tolist()
    assert {key: found.facts[key] for key in facts} == facts


def test_what_is_no_classifier_is_a_sentence(tmp_path):
    with pytest.raises(TaskError, match="does not exist"):
        read_classifier(tmp_path / "gone.pth")
    torch.save({"blocks.0.weight": WEIGHT}, tmp_path / "other.pth")
    with pytest.raises(TaskError, match=r"holds no linear classifier, but 'blocks.0.weight'"):
        read_classifier(tmp_path / "other.pth")
    torch.save({"weight": WEIGHT, "bias": torch.zeros(3)}, tmp_path / "odd.pth")
    with pytest.raises(TaskError, match=r"\(2, 3\).*\(3,\)"):
        read_classifier(tmp_path / "odd.pth")
    for odd in (WEIGHT.to_sparse(), WEIGHT.long(), WEIGHT * 1j):
        torch.save({"weight": odd, "bias": BIAS}, tmp_path / "odd.pth")
        with pytest.raises(TaskError, match="another kind than weights"):
            read_classifier(tmp_path / "odd.pth")
    torch.save({"weight": torch.ones(0, 3), "bias": torch.ones(0)}, tmp_path / "odd.pth")
    with pytest.raises(TaskError, match=r"\(0, 3\).*no linear classifier"):
        read_classifier(tmp_path / "odd.pth")
    header = {"dino_classifier": '{"format": 1, "classes": ["one"]}'}
    save_file({"weight": WEIGHT, "bias": BIAS}, tmp_path / "c.safetensors", metadata=header)
    with pytest.raises(TaskError, match=r"header .* is damaged"):
        read_classifier(tmp_path / "c.safetensors")

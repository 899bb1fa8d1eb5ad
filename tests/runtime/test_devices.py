"""What a device computes with."""

import warnings

import torch

from dino_cli.runtime import choose_precision


def test_fp32_is_not_rounded_to_tf32_and_no_compiler_advises_it(monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert choose_precision("fp32", torch.device("cuda")) == "fp32"
        warnings.warn(
            "TensorFloat32 tensor cores for float32 matrix multiplication available but not "
            "enabled.",
            stacklevel=1,
        )
    assert not torch.backends.cudnn.allow_tf32

"""Parameter groups, optimizers and per-tensor clipping, as the reference's `utils.py`."""

from collections.abc import Iterable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

__all__ = ["Lars", "clip_per_tensor", "load_optimizer", "make_optimizer", "parameter_groups"]

OptimizerName = Literal["adamw", "sgd", "lars"]


def parameter_groups(model: nn.Module) -> list[dict[str, Any]]:
    """Two groups: decayed, and (biases and 1-D tensors) never decayed. Only the first follows the
    weight-decay schedule. pos_embed, cls_token and the last layer's v are decayed."""
    trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    plain = {name for name, p in trained if name.endswith(".bias") or p.ndim == 1}
    return [
        {"params": [p for name, p in trained if name not in plain]},
        {"params": [p for name, p in trained if name in plain], "weight_decay": 0.0},
    ]


def make_optimizer(name: OptimizerName, model: nn.Module) -> torch.optim.Optimizer:
    """An optimizer whose learning rate and weight decay are set before each step.

    All three skip a step on the device, without a host synchronisation, while their attribute
    `found_inf` (0-dimensional float tensor) is 1.
    """
    groups = parameter_groups(model)
    if name == "adamw":
        return torch.optim.AdamW(groups, lr=0.0, fused=True)
    if name == "sgd":
        sgd = torch.optim.SGD(groups, lr=0.0, momentum=0.9, fused=True)
        # torch leaves the momenta uninitialised if the first step is skipped.
        for group in sgd.param_groups:
            for p in group["params"]:
                sgd.state[p]["momentum_buffer"] = torch.zeros_like(p)
        return sgd
    return Lars(groups)


def load_optimizer(optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:
    """Give an optimizer what `state_dict` told of it, on its parameters' device.

    Raises what `load_state_dict` raises for a state of other parameters.
    """
    optimizer.load_state_dict(dict(state))
    # The fused kernels walk through memory: moments must lie there as their parameter does, which
    # on CUDA may be channels last. A checkpoint's are contiguous.
    for parameter, kept in optimizer.state.items():
        for name, value in kept.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape:
                kept[name] = torch.empty_like(parameter).copy_(value)


class Lars(torch.optim.Optimizer):
    """SGD with layer-wise trust ratios (You et al. 2017), in the reference's variant.

    For tensors of more than one dimension the gradient gets the weight decay and is scaled by
    η ‖p‖ / ‖g‖; then momentum. 1-D tensors take plain momentum steps.
    """

    def __init__(
        self, params: Any, lr: float = 0.0, momentum: float = 0.9, eta: float = 0.001
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "eta": eta, "weight_decay": 0.0})
        self.found_inf: Tensor | None = None

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                update = p.grad
                if p.ndim > 1:
                    update = update.add(p, alpha=group["weight_decay"])
                    p_norm, update_norm = torch.norm(p), torch.norm(update)
                    ratio = group["eta"] * p_norm / update_norm
                    update = update * torch.where((p_norm > 0) & (update_norm > 0), ratio, 1.0)
                state = self.state[p]
                if "mu" not in state:
                    state["mu"] = torch.zeros_like(p)
                mu = state["mu"]
                moved = mu * group["momentum"] + update
                if self.found_inf is not None:  # keep the old momentum, take no step
                    kept = self.found_inf == 0
                    mu.copy_(torch.where(kept, moved, mu))
                    p.add_(torch.where(kept, moved, 0.0), alpha=-group["lr"])
                else:
                    mu.copy_(moved)
                    p.add_(mu, alpha=-group["lr"])


@torch.no_grad()
def clip_per_tensor(parameters: Iterable[nn.Parameter], limit: float) -> Tensor:
    """Scale each gradient whose norm exceeds `limit`: by min(1, limit / (‖g‖ + 1e-6)). 0: no clip.

    Per tensor, not a global norm. Returns the norms before clipping, (number of gradients,).
    """
    grads = [p.grad for p in parameters if p.grad is not None]
    norms = torch._foreach_norm(grads)
    if limit > 0:
        scales = (limit / (torch.stack(norms) + 1e-6)).clamp(max=1.0)
        torch._foreach_mul_(grads, list(scales.unbind()))
    return torch.stack(norms)

"""The projection head (paper, section 3 "Network architecture")."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["DinoHead", "WeightNormLinear"]


class WeightNormLinear(nn.Module):
    """Linear without bias whose rows have the direction of `weight_v` and the length `weight_g`.

    It holds both itself, under the reference's names: torch's old `weight_norm` warns, the new
    parametrisation renames the keys. v keeps PyTorch's default initialisation of a Linear.
    """

    def __init__(self, in_dim: int, out_dim: int, *, train_g: bool) -> None:
        super().__init__()
        self.weight_g = nn.Parameter(torch.ones(out_dim, 1), requires_grad=train_g)
        self.weight_v = nn.Parameter(nn.Linear(in_dim, out_dim, bias=False).weight.detach().clone())

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, torch._weight_norm(self.weight_v, self.weight_g, 0))


class DinoHead(nn.Module):
    """Three-layer MLP, L2-normalisation, weight-normed linear: features (…, D) → logits (…, K).

    in → hidden → hidden → bottleneck with GELU, trunc_normal .02 weights and zero biases; then K
    prototypes of length 1 (`norm_last_layer`), or of trained length.
    """

    def __init__(
        self,
        in_dim: int,
        out_dim: int,
        *,
        hidden_dim: int = 2048,
        bottleneck_dim: int = 256,
        use_bn: bool = False,
        norm_last_layer: bool = True,
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for width_in in (in_dim, hidden_dim):
            layers.append(nn.Linear(width_in, hidden_dim))
            if use_bn:
                layers.append(nn.BatchNorm1d(hidden_dim))
            layers.append(nn.GELU())
        layers.append(nn.Linear(hidden_dim, bottleneck_dim))
        for layer in layers:
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=0.02)
                nn.init.zeros_(layer.bias)
        self.mlp = nn.Sequential(*layers)
        self.last_layer = WeightNormLinear(bottleneck_dim, out_dim, train_g=not norm_last_layer)

    def forward(self, x: Tensor) -> Tensor:
        # In fp32: under autocast the 1e-12 of `normalize` and the unit length would be bf16.
        bottleneck = F.normalize(self.mlp(x).float(), dim=-1)
        logits: Tensor = self.last_layer(bottleneck)
        return logits

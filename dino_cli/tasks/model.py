"""The network that a command works with: loaded, on its device, in its precision."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from dino_cli import runtime
from dino_cli.config.setting import Size, height_and_width, parse_size, size_text
from dino_cli.config.shared import NetworkOptions, Preprocessing
from dino_cli.core.network.architecture import LAST_LAYER
from dino_cli.core.network.backbone import Backbone, build
from dino_cli.errors import TaskError, UsageError
from dino_cli.progress import Reporter
from dino_cli.store.weights.empty import filled_network
from dino_cli.store.weights.load import Weights, load

__all__ = ["Model", "open_model", "untrained_twin"]


@dataclass
class Model:
    """A backbone ready for normalised images. The tensors of `weights` are in the network."""

    backbone: Backbone
    device: torch.device
    precision: runtime.Precision
    weights: Weights

    @property
    def preprocessing(self) -> Preprocessing:
        """How the weights want their images."""
        return self.weights.preprocessing

    def input_size(self, image_size: str | None) -> Size:
        """What --image-size asks for; without it, the short side that suits this network.

        Raises `UsageError` for less than one patch.
        """
        size = parse_size(image_size) if image_size is not None else self.weights.attention_size
        patch_size = self.backbone.patch_size
        if min(height_and_width(size)) < patch_size:
            raise UsageError(
                f"image size {size_text(size)} is smaller than one patch of {patch_size} pixels",
                "use a larger --image-size",
            )
        return size

    def whole_photo(self, image_size: str | None, *, exif: bool) -> Preprocessing:
        """How patches are to be looked at: the whole photo, resized bilinearly to `input_size`.

        Not trimmed to whole patches, which `core.masks.layout` does. Raises as `input_size`.
        """
        return replace(
            self.preprocessing,
            resize=self.input_size(image_size),
            crop=None,
            interpolation="bilinear",
            multiple=1,
            exif=exif,
        )

    def block(self, layer: int) -> int:
        """The block that --layer names: its number from 0, or -1 for the last one.

        Raises `UsageError` where there is none of that number, or where no block is known.
        """
        depth, name = self.backbone.layers, self.weights.name
        if layer != LAST_LAYER and not depth:
            raise UsageError(
                f"layer {layer} asked for, but {name} has no blocks of a vision transformer to"
                " choose among",
                "leave out --layer, or use a ViT, such as --model dino_vits16",
            )
        if depth and not -depth <= layer < depth:
            raise UsageError(
                f"layer {layer} asked for, but {name} has {depth} blocks, 0 to {depth - 1}",
                "choose among these, or -1 for the last",
            )
        return LAST_LAYER if layer in (LAST_LAYER, depth - 1) else layer % depth

    def autocast(self) -> AbstractContextManager[object]:
        """Forwards inside run in the chosen precision."""
        return runtime.autocast(self.device, self.precision)

    @contextmanager
    def forward(self, images: Tensor, what: str = "images") -> Iterator[None]:
        """A forward pass over images (B, C, H, W): in the chosen precision, without gradients.

        Raises `TaskError` when they do not fit the device's memory. what: they are, for people.
        """
        try:
            with self.autocast(), torch.inference_mode():
                yield
        except torch.OutOfMemoryError:
            count, _, height, width = images.shape
            raise TaskError(
                f"{count} {what} of {width} x {height} pixels do not fit the device's memory",
                "use a smaller --batch-size, or smaller images",
            ) from None

    def check_finite(self, values: Tensor, what: str = "features") -> None:
        """Raises `TaskError` where half precision, or the weights, gave infinities or NaN."""
        if not values.isfinite().all():
            verb = "are" if what.endswith("s") else "is"
            raise TaskError(f"{what} in {self.precision} {verb} not finite", "use --precision fp32")

    @property
    def identity(self) -> dict[str, str]:
        """What outputs record, so that they can be told apart and made again."""
        return {
            "model": self.weights.name,
            "weights": self.weights.source,
            "weights_sha256": self.weights.sha256,
            "precision": self.precision,
        }


def open_model(options: NetworkOptions, reporter: Reporter) -> Model:
    """Load the weights and put them on the device. Raises `TaskError` and `UsageError`."""
    # A wrong device is found before anything is downloaded.
    device = runtime.choose_device(options.device)
    precision = runtime.choose_precision(options.precision, device)
    weights = load(
        model=options.model,
        weights=options.weights,
        checkpoint_key=options.checkpoint_key,
        arch=options.arch,
        patch_size=options.patch_size,
        heads=options.heads,
        offline=options.offline,
        reporter=reporter,
    )
    backbone = Backbone(filled_network(weights.architecture, weights.tensors).to(device))
    if options.compile:
        backbone.compile()
    return Model(backbone, device, precision, replace(weights, tensors={}))


def untrained_twin(model: Model) -> Model:
    """The same architecture, freshly initialised; leaves the global random state alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = build(model.weights.architecture)
    return replace(model, backbone=Backbone(net.to(model.device)))

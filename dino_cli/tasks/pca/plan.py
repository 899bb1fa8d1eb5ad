"""What a run of `dino pca` shall do: its options checked, its network open."""

from dataclasses import dataclass

from dino_cli.config.pca import PcaConfig
from dino_cli.config.ranges import check_positive
from dino_cli.errors import UsageError
from dino_cli.progress import Reporter
from dino_cli.tasks.model import Model, open_model
from dino_cli.tasks.photos.frames import Videos
from dino_cli.tasks.photos.inputs import check_inputs
from dino_cli.tasks.photos.reading import PhotoReader, photo_reader

__all__ = ["PcaPlan", "check_options", "plan"]


@dataclass(frozen=True, kw_only=True)
class PcaPlan:
    """Everything that does not change from picture to picture."""

    config: PcaConfig
    clips: Videos
    model: Model
    reader: PhotoReader


def check_options(config: PcaConfig) -> None:
    """Raises `UsageError` for what cannot be, before anything is loaded or looked for."""
    check_inputs(config, "dino pca photos/")
    check_positive("--fit", config.fit, 100)


def plan(config: PcaConfig, clips: Videos, reporter: Reporter) -> PcaPlan:
    """Open the network, and check what was asked against it. Raises `UsageError`, `TaskError`."""
    model = open_model(config, reporter)
    name, backbone = model.weights.name, model.backbone
    if not backbone.has_blocks:
        raise UsageError(
            f"{name} has no patch tokens: that takes a vision transformer",
            "use a ViT, such as --model dino_vits16",
        )
    if config.features == "keys" and not backbone.has_attention:
        raise UsageError(
            f"{name} has no class token, so only tokens are read", "leave out --features"
        )
    if config.compile:
        backbone.compile_blocks()
    return PcaPlan(config=config, clips=clips, model=model, reader=photo_reader(model, config))

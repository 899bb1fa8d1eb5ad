"""What a run of `dino pca` shall do: its options checked, its network open."""

from dataclasses import dataclass, replace

from dino_cli.config.pca import PcaConfig
from dino_cli.config.ranges import check_positive
from dino_cli.core.network.architecture import LAST_LAYER
from dino_cli.errors import UsageError
from dino_cli.progress import Reporter
from dino_cli.tasks.model import Model, open_model
from dino_cli.tasks.photos.frames import Videos
from dino_cli.tasks.photos.inputs import check_inputs
from dino_cli.tasks.photos.reading import PhotoReader, photo_reader

__all__ = ["PcaPlan", "check_options", "plan"]


@dataclass(frozen=True, kw_only=True)
class PcaPlan:
    """Everything that does not change from picture to picture. model: ends with the block that was
    asked for; facts: what made the colours, as outputs record it."""

    config: PcaConfig
    clips: Videos
    model: Model
    facts: dict[str, str]
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
    block = model.block(config.layer)
    model = replace(model, backbone=backbone.up_to(block))
    if config.compile:
        model.backbone.compile_blocks()
    return PcaPlan(
        config=config,
        clips=clips,
        model=model,
        facts=model.identity | ({} if block == LAST_LAYER else {"layer": str(block)}),
        reader=photo_reader(model, config),
    )

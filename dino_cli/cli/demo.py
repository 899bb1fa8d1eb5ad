"""`dino demo`."""

from typing import Any

from dino_cli.cli.app import app
from dino_cli.cli.display import Terminal
from dino_cli.cli.options import command
from dino_cli.config.demo import DemoConfig
from dino_cli.config.values import counted
from dino_cli.errors import UsageError


@command(app, "demo", DemoConfig)
def demo(config: DemoConfig, terminal: Terminal) -> dict[str, Any] | None:
    """See a ViT that learned without labels find objects: offline, in minutes.

    Draws its own images, looks at them with the backbone that ships with dino, beside the same
    network untrained, and leaves demo/index.html, one file that needs no network to be read.
    """
    _check(config, terminal.given)
    if config.images is not None:
        from dino_cli.tasks.demo.draw import draw_folder

        draw_folder(
            config.images,
            count=config.count,
            size=config.size,
            seed=config.seed,
            style=config.style,
            reporter=terminal,
            workers=config.workers,
        )
        terminal.line(f"{config.images}: {counted(config.count, 'image')} with masks")
        return {"folder": str(config.images), "count": config.count}
    if config.train:
        from dino_cli.tasks.demo.training import train_demo

        result = train_demo(config, terminal)
        _show_training(result, terminal)
    else:
        terminal.remark("drawing, embedding, classifying, looking, training: a minute or a few")
        from dino_cli.tasks.demo.run import demo as run

        result = run(config, terminal)
        _show(result, terminal)
    terminal.line(f"page: {result['page']}")
    terminal.line("next:")
    for line in result["next"]:
        terminal.line(f"  {line}")
    return result


def _check(config: DemoConfig, given: set[str]) -> None:
    """Options that would be without effect are misuse."""
    if config.images is None:
        for name in ("count", "size", "style"):
            if name in given:
                raise UsageError(f"--{name} is for --images", "add --images FOLDER")
    elif config.train:
        raise UsageError("--images only draws and --train trains", "choose one of them")
    if config.train:
        for name in ("model", "weights"):
            if name in given:
                raise UsageError(
                    f"--{name} is for showing a network and --train makes one", "leave one out"
                )


def _show(result: dict[str, Any], terminal: Terminal) -> None:
    knn, masks = result["knn"], result["masks"]
    top1, trained, untrained = knn["top1"], masks["trained"], masks["untrained"]
    rows = [
        [
            f"k-NN top-1, {knn['queries']} new drawings",
            *(f"{top1[n]['seen']:.1f} %" for n in ("trained", "untrained", "colour_histogram")),
            "colour histogram",
        ],
        [
            "… on unseen backgrounds",
            *(f"{top1[n]['unseen']:.1f} %" for n in ("trained", "untrained", "colour_histogram")),
            "colour histogram",
        ],
        [
            f"mask IoU of the heads' mean, {masks['images']} drawings",
            *(f"{score['iou']:.3f}" for score in (trained["mean"], untrained["mean"])),
            f"{masks['best_box']['iou']:.3f}",
            "best centred box",
        ],
        [
            "… of the best head",
            *(f"{score['iou']:.3f}" for score in (trained["best_head"], untrained["best_head"])),
            f"{masks['colourfulness']['iou']:.3f}",
            "colourfulness",
        ],
    ]
    columns = ["", "trained", "untrained", "no network", "which is"]
    terminal.table(result["model"]["model"], columns, rows)
    training = result["training"]
    terminal.line(
        f"{training['steps']} steps of training: loss {training['first']:.2f} to "
        f"{training['last']:.2f}, {training['images_per_second']:.0f} images/s"
    )


def _show_training(result: dict[str, Any], terminal: Terminal) -> None:
    rows = [
        [
            str(m["step"]),
            f"{m['minutes']:.1f}",
            f"{m['knn']:.1f} %",
            f"{m['iou']:.3f}",
            f"{m['best_iou']:.3f}",
        ]
        for m in result["moments"]
    ]
    terminal.table("", ["step", "minutes", "k-NN", "mask IoU", "best head"], rows)

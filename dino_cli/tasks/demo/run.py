"""`dino demo`: a network that learned without labels, on drawings that it never saw."""

import shlex
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from PIL import Image

from dino_cli.config.attention import AttentionConfig
from dino_cli.config.demo import DemoConfig
from dino_cli.config.setting import flag_of
from dino_cli.config.shared import ModelOptions
from dino_cli.data.drawings.images import CLASSES
from dino_cli.errors import Interrupted, UsageError
from dino_cli.progress import Reporter
from dino_cli.runtime import SMALL_NETWORK, one_thread, usable_threads
from dino_cli.store.pages import write_page
from dino_cli.store.writing.staging import stage_results
from dino_cli.store.writing.targets import check_free
from dino_cli.tasks.attention.run import attention
from dino_cli.tasks.demo.draw import draw_folder
from dino_cli.tasks.demo.live import live_steps
from dino_cli.tasks.demo.look import Example, draw_all, examples, look_masks, look_neighbors
from dino_cli.tasks.demo.page import Story, demo_values
from dino_cli.tasks.demo.scores import input_sizes
from dino_cli.tasks.model import open_model, untrained_twin

__all__ = ["PAGE", "DemoSizes", "command_line", "demo", "demo_seed", "next_commands"]

PAGE = "index.html"
RESULTS = ("gallery", "drawn", "attention", PAGE)  # the page last: it is there when all is


@dataclass(frozen=True, kw_only=True)
class DemoSizes:
    """How many drawings for what. A bank twice as large gains about 5 points of k-NN."""

    bank: int = 4000
    queries: int = 300
    masks: int = 120
    gallery: int = len(CLASSES)
    drawn: int = 200
    steps: int = 40


FULL = DemoSizes()
BRIEF = DemoSizes(bank=300, queries=100, masks=24, gallery=6)  # networks that are 25 × slower


def demo_seed(seed: int) -> int:
    """The seed before those of a demo's drawings. The shipped backbone was trained on seed 1."""
    if seed < 0:
        raise UsageError(f"--seed {seed} must not be negative", "use --seed 0")
    return 1000 + 10 * seed


def demo(config: DemoConfig, reporter: Reporter) -> dict[str, Any]:
    """Write the demo's page and folders below `config.output`.

    Returns the numbers that the page shows: {"page", "model", "seed", "knn", "masks", "training",
    "seconds", "next"}, accuracies in percent, overlaps from 0 to 1. After an error nothing new is
    left.
    """
    seed = demo_seed(config.seed)
    check_free(config.output, RESULTS, overwrite=config.overwrite)
    model = open_model(config, reporter)
    size = input_sizes(model)
    weights = sum(p.numel() for p in model.backbone.net.parameters())
    small = weights < SMALL_NETWORK
    counts = FULL if small else BRIEF
    networks = {"trained": model, "untrained": untrained_twin(model)}
    clock = _Clock()
    try:
        with (
            one_thread() if small else nullcontext(),
            stage_results(config.output, RESULTS) as stage,
        ):
            with clock("drawing"):
                drawings = draw_all(
                    seed,
                    bank=counts.bank,
                    queries=counts.queries,
                    masks=counts.masks,
                    gallery=counts.gallery,
                    sides=size,
                    processes=usable_threads(config.workers),
                    reporter=reporter,
                )
            with clock("neighbours"):
                near = look_neighbors(
                    networks, drawings, batch=config.batch_size, reporter=reporter
                )
            with clock("attention"):
                masks = look_masks(
                    networks, drawings.masks, batch=config.batch_size, reporter=reporter
                )
                shown = examples(
                    networks, drawings.gallery, drawings.photos, batch=config.batch_size
                )
            with clock("files"):
                _leave_pictures(stage, shown, seed + 6, size[1], counts, config, reporter)
            with clock("training"):
                live = live_steps(
                    stage / "drawn" / "images",
                    counts.drawn,
                    stage / "run",
                    counts.steps,
                    config,
                    reporter,
                )
            result = {
                "page": str(config.output / PAGE),
                "model": {
                    **model.identity,
                    "parameters": weights,
                    "heads": model.backbone.heads,
                    "dim": model.backbone.dim,
                },
                "seed": config.seed,
                "knn": near.numbers,
                "masks": masks,
                "training": live.json(),
                "seconds": clock.seconds,
                "next": [step["command"] for step in next_commands(config)],
            }
            values = demo_values(
                result, shown, drawings, near.votes, next_commands(config), story=_story(config)
            )
            write_page(stage / PAGE, "demo", values)
    except (Interrupted, KeyboardInterrupt):
        raise Interrupted(f"interrupted; {str(config.output)!r} is as it was") from None
    return result


def _leave_pictures(
    stage: Path,
    shown: list[Example],
    seed: int,
    side: int,
    counts: DemoSizes,
    config: DemoConfig,
    reporter: Reporter,
) -> None:
    """gallery/, drawn/ and attention/: for looking closer, and for the other commands."""
    (stage / "gallery").mkdir()
    files = []
    for example in shown:
        files.append(stage / "gallery" / f"{example.name}.png")
        Image.fromarray(example.photo).save(files[-1])
    attention(
        AttentionConfig(
            images=tuple(str(path) for path in files),
            output=stage / "attention",
            image_size=f"{side}x{side}",
            **_as_given(config),
        ),
        reporter,
    )
    draw_folder(
        stage / "drawn",
        count=counts.drawn,
        size=128,
        seed=seed,
        style="final",
        reporter=reporter,
        workers=config.workers,
    )


def _as_given(config: DemoConfig) -> dict[str, Any]:
    """The network and the device, for the options of another command."""
    names = [f.name for f in fields(ModelOptions)] + ["device", "precision"]
    return {name: getattr(config, name) for name in names}


def _story(config: DemoConfig) -> Story:
    """What the page may say about where the network comes from."""
    if config.weights is not None:
        own = (config.weights / "checkpoint.pt").is_file()  # a run folder of `dino train`
        return "unlabelled" if own else "unknown"
    if config.model == "dino_demo":
        return "shipped"
    return "unlabelled" if config.model.startswith("dino_") else "unknown"


def next_commands(config: DemoConfig) -> list[dict[str, str]]:
    """Three commands that work as they stand, and what each is for."""
    out = config.output
    network: list[str | Path] = [] if config.weights else ["--model", config.model]
    for f in fields(ModelOptions):
        value = getattr(config, f.name)
        if f.name != "model" and value != f.default:
            name = flag_of(f.name)
            network += [name] if value is True else [name, value]
    feats = out / "feats.npy"
    again = () if out == Path("demo") else ("-o", out)
    return [
        {
            "why": "Attention as heat maps, masks and arrays, for any images:",
            "command": command_line(
                "dino", "attention", out / "drawn/images/cat", *network, "-o", out / "cats"
            ),
        },
        {
            "why": "Features of a folder, and how well they tell its classes apart:",
            "command": command_line("dino", "embed", out / "drawn/images", *network, "-o", feats)
            + " && "
            + command_line("dino", "knn", "--index", feats),
        },
        {
            "why": "Repeat the whole training from nothing and watch the heads find the objects:",
            "command": command_line("dino", "demo", "--train", *again),
        },
    ]


def command_line(*words: str | Path) -> str:
    """A command line that a shell takes apart into these words again."""
    return shlex.join(str(word) for word in words)


class _Clock:
    """Seconds by stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        started = time.monotonic()
        yield
        self.seconds[name] = round(time.monotonic() - started, 1)

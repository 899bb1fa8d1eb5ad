"""What a run of `dino attention` shall do: its options read and checked, its network open."""

from collections.abc import Sequence
from dataclasses import dataclass

from dino_cli.config.attention import AttentionConfig
from dino_cli.config.ranges import check_threshold
from dino_cli.errors import UsageError
from dino_cli.progress import Reporter
from dino_cli.store.coco import Segmentation
from dino_cli.store.pictures.attention import Style
from dino_cli.store.pictures.figures import rgb_of
from dino_cli.tasks.model import Model, open_model
from dino_cli.tasks.photos.inputs import check_inputs
from dino_cli.tasks.photos.query import Query, parse_query
from dino_cli.tasks.photos.reading import PhotoReader, photo_reader
from dino_cli.tasks.photos.results import PAGE

__all__ = ["COCO_NAMES", "AttentionPlan", "AttentionRequest", "parse_heads", "plan", "read_options"]

COCO_NAMES: dict[Segmentation, str] = {"rle": "coco.json", "polygons": "coco-polygons.json"}


@dataclass(frozen=True, kw_only=True)
class AttentionRequest:
    """The options of a person, read. pictures: a folder of them for each input; coco: which COCO
    files; page: the gallery."""

    chosen: tuple[int | str, ...]
    query: Query | None
    style: Style
    pictures: bool
    coco: tuple[Segmentation, ...]
    page: bool

    @property
    def files(self) -> list[str]:
        """Names of the files that all inputs share."""
        return [COCO_NAMES[one] for one in self.coco] + ([PAGE] if self.page else [])


@dataclass(frozen=True, kw_only=True)
class AttentionPlan:
    """Everything that does not change from picture to picture."""

    config: AttentionConfig
    asked: AttentionRequest
    model: Model
    reader: PhotoReader

    @property
    def categories(self) -> list[str]:
        """What the masks of an image are called, in the order of COCO's category ids from 1."""
        if self.config.masks != "attention":
            return [self.config.masks]
        names: list[str] = []
        for head in self.asked.chosen:
            if head == "all":
                names += [f"head{number}" for number in range(self.model.backbone.heads)]
            else:
                names.append(head if isinstance(head, str) else f"head{head}")
        return list(dict.fromkeys(names))


def read_options(config: AttentionConfig) -> AttentionRequest:
    """Raises `UsageError` for what cannot be, before anything is loaded or looked for."""
    check_inputs(config, "dino attention photo.jpg")
    check_threshold(config.threshold)
    pictures, coco = _formats(config.format)
    try:
        outline = rgb_of(config.outline)
    except ValueError:
        raise UsageError(
            f"--outline {config.outline!r} is not a colour",
            "write '#ffc400' or a name such as orange",
        ) from None
    return AttentionRequest(
        chosen=tuple(parse_heads(config.head)),
        query=parse_query(config.query) if config.query is not None else None,
        style=Style(
            refine=config.refine == "guided",
            instances=config.instances,
            palette=config.palette,
            outline=outline,
        ),
        pictures=pictures,
        coco=coco,
        page=config.html,
    )


def _formats(text: str) -> tuple[bool, tuple[Segmentation, ...]]:
    names = [name.strip() for name in text.split(",")]
    known: dict[str, Segmentation | None] = {
        "pictures": None, "coco": "rle", "polygons": "polygons",
    }  # fmt: skip
    for name in names:
        if name not in known:
            raise UsageError(
                f"--format {text!r} is none of pictures, coco and polygons",
                "write --format coco, or several by comma",
            )
    kinds = [known[name] for name in dict.fromkeys(names)]
    return "pictures" in names, tuple(kind for kind in kinds if kind is not None)


def parse_heads(text: str) -> list[int | str]:
    """ "0,3" → [0, 3]; "all", "mean" and "best" stay words. Raises `UsageError`."""
    chosen: list[int | str] = []
    for part in (p.strip() for p in text.split(",")):
        if part not in ("all", "mean", "best") and not (part.isascii() and part.isdigit()):
            raise UsageError(
                f"--head {text!r} is none of all, mean, best and head numbers", "write --head 0,3"
            )
        chosen.append(int(part) if part.isdigit() else part)
    return list(dict.fromkeys(chosen))


def plan(
    config: AttentionConfig, asked: AttentionRequest, reporter: Reporter, model: Model | None = None
) -> AttentionPlan:
    """Open the network, or take an open one, and check what was asked against it.

    Raises `UsageError`, `TaskError`.
    """
    model = model or open_model(config, reporter)
    _check_network(model, asked)
    model.block(config.layer)  # refuses one that there is not
    reader = photo_reader(model, config, asked.query)
    if config.compile:
        model.backbone.compile_blocks(config.layer)
    return AttentionPlan(config=config, asked=asked, model=model, reader=reader)


def _check_network(model: Model, asked: AttentionRequest) -> None:
    name, backbone = model.weights.name, model.backbone
    if not backbone.has_attention and backbone.has_blocks and asked.query is None:
        raise UsageError(
            f"{name} has no class token, so nothing asks its patches",
            "ask one of them: --query 50%,50%",
        )
    if not backbone.has_blocks:
        raise UsageError(
            f"{name} has no attention of a class token to its patches: that takes a vision"
            " transformer, not a convnet or a network that attends between channels",
            "use a ViT, such as --model dino_vits16",
        )
    _check_heads(asked.chosen, name, backbone.heads)


def _check_heads(chosen: Sequence[int | str], name: str, heads: int) -> None:
    high = max((head for head in chosen if isinstance(head, int)), default=0)
    if high >= heads:
        raise UsageError(
            f"head {high} asked for, but {name} has {heads} heads, 0 to {heads - 1}",
            "choose among these",
        )

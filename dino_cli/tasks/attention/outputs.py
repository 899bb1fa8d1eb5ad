"""What all inputs share: COCO files and the page."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any

from dino_cli import __version__
from dino_cli.config.attention import AttentionConfig
from dino_cli.config.values import counted
from dino_cli.data.listing.image_list import ImageFile
from dino_cli.store.coco import coco_file
from dino_cli.store.pictures.attention import RESULT_NAMES
from dino_cli.tasks.attention.draw import DrawnResults
from dino_cli.tasks.attention.plan import COCO_NAMES, AttentionPlan, AttentionRequest
from dino_cli.tasks.photos.results import PAGE, Results

__all__ = ["Outputs"]


class Outputs(Results):
    """The results of `dino attention`: of each input, and the COCO files that are growing.

    videos: their entries there; stack: closes the temporary files in which annotations wait."""

    def __init__(
        self,
        config: AttentionConfig,
        inputs: Sequence[ImageFile],
        asked: AttentionRequest,
        stack: ExitStack,
    ) -> None:
        super().__init__(config, inputs, RESULT_NAMES, asked.files, folders=asked.pictures)
        self.coco = {kind: stack.enter_context(coco_file()) for kind in asked.coco}
        self.videos: list[dict[str, Any]] = []

    def annotate(
        self, number: tuple[int, int], image: Mapping[str, Any], drawn: DrawnResults
    ) -> None:
        """The COCO entries of a photo, or of a frame (the second number)."""
        for kind, annotations in drawn.annotations.items():
            self.coco[kind].add(number, image, annotations)

    def write_shared(self, plan: AttentionPlan) -> None:
        """The COCO files and the page, of all that is done."""
        if not self.rows or not self.shared:
            return
        self.root.mkdir(exist_ok=True)
        header: dict[str, Any] = {
            "info": {
                "description": f"masks by dino attention --masks {plan.config.masks}",
                "version": __version__,
                **plan.model.identity,
            },
            "licenses": [],
            "categories": [
                {"id": number, "name": name, "supercategory": "attention"}
                for number, name in enumerate(plan.categories, 1)
            ],
            **({"videos": self.videos} if self.videos else {}),
        }
        for kind, file in self.coco.items():
            file.write(self.root / COCO_NAMES[kind], header)
        if plan.asked.page:
            rows = [card["row"] for card in self.cards.values()]
            self.write_page(
                "attention",
                whole=any("score" in row for row in rows),
                guesses=sum(bool(row.get("guess")) for row in rows),
                facts={**plan.model.identity, "options": _options(plan)},
            )

    def told_shared(self) -> dict[str, str]:
        """The files that all inputs share, and what is in each."""
        told = {
            str(self.root / COCO_NAMES[kind]): f"{file.masks} masks in {file.images} images"
            for kind, file in self.coco.items()
        }
        if self.cards:
            told[str(self.root / PAGE)] = f"{counted(len(self.cards), 'input')} to look at"
        return told


def _options(plan: AttentionPlan) -> str:
    """What the person asked for, in words for the page."""
    c = plan.config
    said = [
        f"attention masks of --head {c.head}" if c.masks == "attention" else f"{c.masks} masks",
        "fitted to the photos' edges" if c.refine == "guided" else "as patches",
    ]
    if c.query is not None:
        said.append(f"asked by the patch at {c.query}")
    if c.layer != -1:
        said.append(f"block {c.layer}")
    return ", ".join(said)

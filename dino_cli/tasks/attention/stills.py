"""The photos of a run: what the network sees in them, and what is kept of each."""

from collections.abc import Sequence

from dino_cli.progress import Reporter
from dino_cli.store.pictures.attention import encoded, npy
from dino_cli.tasks.attention.draw import DrawnResults, draw
from dino_cli.tasks.attention.look import AttentionResult, attend
from dino_cli.tasks.attention.outputs import Outputs
from dino_cli.tasks.attention.plan import AttentionPlan
from dino_cli.tasks.photos.pipeline import draw_photos
from dino_cli.tasks.photos.reading import LoadedPhoto, stacked

__all__ = ["look_at", "run_stills"]


def look_at(plan: AttentionPlan, photos: Sequence[LoadedPhoto]) -> list[AttentionResult]:
    """One forward pass over photos of one shape."""
    asking = [photo.asking for photo in photos if photo.asking is not None]
    return attend(
        plan.model, stacked(photos), plan.reader.preprocessing, plan.config, asking or None
    )


def run_stills(
    plan: AttentionPlan, outputs: Outputs, names: Sequence[str], reporter: Reporter
) -> None:
    """The first inputs, as many as names, which are COCO's and the page's."""

    def write(photo: LoadedPhoto, seen: AttentionResult) -> DrawnResults:
        page = outputs.wants_card(photo.index)
        drawn = draw(plan, photo, seen, best=seen.best, page=page)
        if plan.asked.pictures:
            files = {"attention.npy": npy(seen.attention.numpy()), **encoded(drawn.pictures)}
            outputs.write(photo.index, files)
        return drawn

    def keep(number: int, drawn: DrawnResults) -> None:
        height, width = drawn.facts["size"]
        image = {"file_name": names[number], "height": height, "width": width}
        outputs.annotate((number, 0), image, drawn)
        views = [("", drawn.tiles)] if drawn.tiles is not None else []
        outputs.done(number, drawn.facts, names[number], views)

    reporter.stage("attention", len(names))
    files = outputs.inputs[: len(names)]
    draw_photos(
        plan.reader, files, lambda group: look_at(plan, group), write, keep, outputs, reporter
    )

"""From the demo's numbers and examples to the values of its page."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from dino_cli import __version__
from dino_cli.data.drawings.images import CLASSES
from dino_cli.data.drawings.sets import DrawingSet
from dino_cli.store.pages import Chart, Picture, cut_out, heat, line_chart, picture
from dino_cli.tasks.demo.look import Drawings, Example, NetworkView
from dino_cli.tasks.demo.scores import Votes

__all__ = ["Story", "demo_values", "example_values", "moment_values", "training_values"]

Story = Literal["shipped", "unlabelled", "unknown"]
VOTES = 5  # queries shown with their neighbours, and neighbours of each


def demo_values(
    result: Mapping[str, Any],
    shown: Sequence[Example],
    drawings: Drawings,
    votes: Mapping[str, Votes],
    commands: Sequence[Mapping[str, str]],
    *,
    story: Story,
) -> dict[str, Any]:
    """All that `demo.html.j2` shows. story: what is known of the network's training."""
    trained = "Trained" if story == "unknown" else "Trained without labels"
    losses = result["training"]["losses"]
    return {
        "title": "dino demo",
        "version": __version__,
        "story": story,
        "result": result,
        "knn_rows": _knn_rows(result["knn"]["top1"], trained),
        "mask_rows": _mask_rows(result["masks"]),
        "examples": [example_values(one, trained) for one in shown],
        "votes": _votes(drawings, votes),
        "loss": line_chart(
            range(1, len(losses) + 1),
            losses,
            x_label="step",
            y_label="Loss in nats: how badly the student predicts the teacher.",
            alt=f"Loss over {len(losses)} steps, from {losses[0]:.2f} to {losses[-1]:.2f}.",
        ),
        "commands": commands,
    }


def example_values(one: Example, trained: str = "Trained without labels") -> dict[str, Any]:
    """An example as the macro `example` of `parts.html.j2` wants it."""
    seen = {name: _glance(one, name, glance) for name, glance in one.glances.items()}
    return {
        "name": one.name,
        "title": trained,
        "photo": picture(one.photo, f"Drawing of a {one.name} on a patchwork."),
        "truth": cut_out(one.photo, one.truth, f"The true outline of the {one.name}."),
        "trained": seen["trained"],
        "untrained": seen.get("untrained"),
    }


def _glance(one: Example, network: str, glance: NetworkView) -> dict[str, Any]:
    of = f"of the {network} network, drawing of a {one.name}"
    return {
        "heads": [heat(h, f"Attention of head {i} {of}.") for i, h in enumerate(glance.heads)],
        "mean": heat(glance.mean, f"Mean attention of the heads {of}."),
        "mask": cut_out(one.photo, glance.mask, f"Mask from the mean attention {of}."),
        "iou": glance.iou,
    }


def _knn_rows(top1: Mapping[str, Mapping[str, float]], trained: str) -> list[dict[str, Any]]:
    names = {
        "trained": (trained, ""),
        "untrained": ("The same network, untrained", ""),
        "colour_histogram": ("Colour histograms", "no network: how often each colour occurs"),
    }
    return [
        {"name": name, "remark": remark, "ours": key == "trained", **top1[key]}
        for key, (name, remark) in names.items()
    ]


def _mask_rows(masks: Mapping[str, Any]) -> list[dict[str, Any]]:
    trained, untrained, box = masks["trained"], masks["untrained"], masks["best_box"]
    best = trained["best_head"]
    rows = [
        ("Trained, mean of the heads", "", trained["mean"]),
        (
            f"Trained, best single head (head {best['head']})",
            "the head with the best mean over these drawings",
            best,
        ),
        ("Untrained, mean of the heads", "", untrained["mean"]),
        (
            f"Untrained, best single head (head {untrained['best_head']['head']})",
            "",
            untrained["best_head"],
        ),
        (
            "Colourfulness",
            "no network: the most colourful patches, cut at the same share",
            masks["colourfulness"],
        ),
        (
            "Best centred box",
            f"{box['width']} x {box['height']} px, chosen with the outlines known",
            box,
        ),
        ("The whole image", "", masks["whole_image"]),
    ]
    return [
        {"name": name, "remark": remark, "ours": i == 0, **score}
        for i, (name, remark, score) in enumerate(rows)
    ]


def _votes(drawings: Drawings, votes: Mapping[str, Votes]) -> list[dict[str, Any]]:
    """A few queries, of as many classes, with the nearest drawings of the bank by each network."""
    queries, bank = drawings.queries, drawings.bank
    tiles: dict[int, Picture] = {}

    def neighbour(row: int, label: int) -> dict[str, Any]:
        name = CLASSES[bank.labels[row]]
        if row not in tiles:
            tiles[row] = picture(bank.images[row], f"Neighbour: {name}.")
        return {"picture": tiles[row], "same": bool(bank.labels[row] == label)}

    return [
        {
            "name": CLASSES[queries.labels[i]],
            "picture": picture(queries.images[i], f"New drawing: {CLASSES[queries.labels[i]]}."),
            "trained": [
                neighbour(r, queries.labels[i]) for r in votes["trained"].rows[i][:VOTES].tolist()
            ],
            "untrained": [
                neighbour(r, queries.labels[i]) for r in votes["untrained"].rows[i][:VOTES].tolist()
            ],
        }
        for i in range(min(VOTES, len(queries.labels)))
    ]


def moment_values(shown: Sequence[Example]) -> dict[str, Any]:
    """What a row of the training's page keeps: the mean attention on each drawing, as data URIs."""
    return {"maps": [heat(one.glances["trained"].mean, "").uri for one in shown]}


def training_values(
    moments: Sequence[Mapping[str, Any]],
    latest: Sequence[Example],
    photos: DrawingSet,
    *,
    total: int,
    version: str,
    numbers: Mapping[str, int],
    commands: Sequence[Mapping[str, str]],
) -> dict[str, Any]:
    """All that `training.html.j2` shows. latest: examples by the newest weights."""
    steps = [m["step"] for m in moments]
    names = [CLASSES[label] for label in photos.labels]

    def chart(key: str, label: str, top: float) -> Chart:
        values = [float(m[key]) for m in moments]
        alt = f"{label} From {values[0]:.3g} at step {steps[0]} to {values[-1]:.3g} at {steps[-1]}."
        return line_chart(steps, values, x_label="step", y_label=label, alt=alt, y_range=(0, top))

    return {
        "title": f"dino demo --train, step {steps[-1]}",
        "version": version,
        "moments": [_moment(m, names) for m in moments],
        "photos": [
            picture(image, f"Drawing of a {name}.")
            for image, name in zip(photos.images, names, strict=True)
        ],
        "examples": [example_values(one) for one in latest],
        "charts": [
            chart("iou", "Overlap of the mean attention's mask with the true outline.", 1.0),
            chart("knn", "k-NN: percent of new drawings named right.", 100.0),
        ],
        "total": total,
        "numbers": numbers,
        "commands": commands,
    }


def _moment(moment: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    step = moment["step"]
    maps = [
        Picture(
            uri=uri,
            width=16,
            height=16,
            alt=f"Mean attention at step {step}, drawing of a {name}.",
        )
        for uri, name in zip(moment["maps"], names, strict=False)
    ]
    return {**moment, "pictures": maps}

"""The paper's figures (Caron et al. 2021), in percent, to stand beside what is measured.

From the paper's tables 2 to 5, section 4.2.2 and the authors' repository. They are of the named
benchmarks: on other data they are for orientation only.
"""

from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["PUBLISHED", "Published", "PublishedRow"]


@dataclass(frozen=True)
class PublishedRow:
    """A model's published figures by column. data: the data set they hold for, where one of two."""

    name: str
    figures: Mapping[str, float]
    data: str = ""


@dataclass(frozen=True)
class Published:
    """What was published for one evaluation. columns: in the order of the page."""

    title: str
    about: str
    columns: tuple[str, ...]
    rows: tuple[PublishedRow, ...]


def _rows(column: str, figures: Mapping[str, float]) -> tuple[PublishedRow, ...]:
    return tuple(PublishedRow(name, {column: value}) for name, value in figures.items())


def _video(name: str, both: float, region: float, contour: float) -> PublishedRow:
    return PublishedRow(name, {"J&F-Mean": both, "J-Mean": region, "F-Mean": contour})


def _landmarks(name: str, data: str, medium: float, hard: float) -> PublishedRow:
    return PublishedRow(name, {"medium mAP": medium, "hard mAP": hard}, data)


PUBLISHED: Mapping[str, Published] = {
    "knn": Published(
        "k-NN classification",
        "Weighted votes of the nearest training images. Published for ImageNet, best k.",
        ("top-1",),
        _rows(
            "top-1",
            {
                "DINO ResNet-50": 67.5,
                "DINO ViT-S/16": 74.5,
                "DINO ViT-S/8": 78.3,
                "DINO ViT-B/16": 76.1,
                "DINO ViT-B/8": 77.4,
            },
        ),
    ),
    "linear": Published(
        "Linear classification",
        "A linear layer on frozen features. Published for ImageNet.",
        ("top-1",),
        _rows(
            "top-1",
            {
                "DINO ResNet-50": 75.3,
                "DINO ViT-S/16": 77.0,
                "DINO ViT-S/8": 79.7,
                "DINO ViT-B/16": 78.2,
                "DINO ViT-B/8": 80.1,
            },
        ),
    ),
    "segmentation": Published(
        "Segmentation by attention",
        "Overlap (Jaccard) of the best head's mask with each object. Published for VOC12 val.",
        ("Jaccard",),
        _rows(
            "Jaccard",
            {
                "DINO ViT-S/16": 45.9,
                "DINO ViT-S/8": 44.7,
                "Supervised ViT-S/16": 27.3,
                "Supervised ViT-S/8": 23.7,
                "Random ViT-S/16": 22.0,
                "Random ViT-S/8": 21.8,
            },
        ),
    ),
    "video": Published(
        "Video object segmentation",
        "The first mask, carried on by similarity of patches. Published for DAVIS-2017 val.",
        ("J&F-Mean", "J-Mean", "F-Mean"),
        (
            _video("DINO ViT-S/16", 61.8, 60.2, 63.4),
            _video("DINO ViT-B/16", 62.3, 60.7, 63.9),
            _video("DINO ViT-S/8", 69.9, 66.6, 73.1),
            _video("DINO ViT-B/8", 71.4, 67.9, 74.9),
        ),
    ),
    "retrieval": Published(
        "Image retrieval",
        "Mean average precision. Published for revisited Oxford and Paris.",
        ("medium mAP", "hard mAP"),
        (
            _landmarks("DINO ViT-S/16, Oxford", "oxford", 41.8, 13.7),
            _landmarks("DINO ViT-S/16 trained on GLDv2, Oxford", "oxford", 51.5, 24.3),
            _landmarks("DINO ViT-S/16, Paris", "paris", 63.1, 34.4),
            _landmarks("DINO ViT-S/16 trained on GLDv2, Paris", "paris", 75.3, 51.6),
        ),
    ),
    "copies": Published(
        "Copy detection",
        "Mean average precision. Published for the strong subset of Copydays.",
        ("strong mAP",),
        _rows("strong mAP", {"DINO ViT-B/16, 224 px": 81.7, "DINO ViT-B/8, 320 px": 85.5}),
    ),
}

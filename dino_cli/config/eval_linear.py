"""The options of `dino eval linear`."""

from dataclasses import dataclass
from pathlib import Path

from dino_cli.config.setting import setting
from dino_cli.config.shared import (
    COMPUTE_PANEL,
    EvalNetworkOptions,
    ImageOptions,
    ListOptions,
    TransformOptions,
)

__all__ = ["EvalLinearConfig"]


@dataclass(frozen=True, kw_only=True)
class EvalLinearConfig(EvalNetworkOptions, ImageOptions, TransformOptions, ListOptions):
    """`dino eval linear`: a linear classifier on frozen features."""

    train: Path | None = setting(
        None,
        "Training images: one folder per class, or a .txt list with labels.",
        argument=True,
        metavar="TRAIN",
    )
    val: Path | None = setting(
        None,
        "Validation images of the same classes. With --classifier it can stand alone.",
        argument=True,
        metavar="VAL",
    )
    classifier: Path | None = setting(
        None,
        "Use these linear weights instead of training: a classifier.safetensors of this command,"
        " or the original's linear_weights .pth.",
        metavar="FILE",
    )
    predict: tuple[str, ...] = setting(
        (),
        "Images, a folder or a list to name the classes of; may repeat."
        " Goes to predictions.csv in the report's folder.",
        metavar="PATH",
    )
    fast: bool = setting(
        False,
        "Features once, without augmentation; a sweep of learning rates side by side,"
        " chosen on a tenth of TRAIN. A hundredth of the time.",
    )
    compare: bool = setting(
        False, "Beside the full protocol also the fast one, and how far both agree."
    )
    n_last_blocks: int | None = setting(
        None,
        "Number of last blocks whose CLS tokens are used. Default, as the paper: 4; 1 for ViT-B.",
    )
    avgpool: bool | None = setting(
        None, "Also the mean of the patch tokens, as the paper for ViT-B.", switch=True
    )
    epochs: int = setting(100, "Passes over TRAIN.")
    lr: float = setting(0.001, "Learning rate per 256 images of a batch; cosine down to 0.")
    seed: int = setting(0, "Seed of the initial weights, the order and the crops.")
    output: Path | None = setting(
        None,
        "Folder for the report, the classifier and, while it trains, a checkpoint.",
        flag="--output,-o",
    )
    resume: bool = setting(
        False, "Go on from the checkpoint in the report's folder, if there is one."
    )
    overwrite: bool = setting(False, "Replace an existing report.")
    batch_size: int = setting(128, "Images in one step.", panel=COMPUTE_PANEL)
    compile: bool = False  # no option: reading several blocks does not go through what is compiled

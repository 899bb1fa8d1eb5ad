"""Student and teacher beside each other in one flat state dict, as other trainers leave them.

                          student             teacher
facebookresearch/dinov2   student.backbone.   teacher.backbone.
lightly                   student_backbone.   teacher_backbone.   (either may be backbone.)
solo-learn                backbone.           momentum_backbone.  (encoder. in old versions)
facebookresearch/moco-v3  base_encoder.       momentum_encoder.
"""

import re
from collections.abc import Iterable, Mapping

from torch import Tensor

from dino_cli.errors import TaskError

__all__ = ["TRAINING_PREFIXES", "networks_beside", "one_of_pair", "without"]

TRAINING_PREFIXES = ("module.", "_orig_mod.")
PREFIXES = {
    "student": ("student.backbone.", "student_backbone."),
    "teacher": (
        "teacher.backbone.",
        "teacher_backbone.",
        "momentum_backbone.",
        "momentum_encoder.",
    ),
}
UNNAMED = ("backbone.", "encoder.", "base_encoder.")  # the other one of a pair
WHOLE = "model."  # may stand before both
# What lies beside the two networks, and is none of either.
HEAD = re.compile(r"(?:(?:student|teacher)\.)?(?:\w*_)?(?:head|classifier|projector|predictor)\.")
CENTRE = re.compile(r"\w*(?:loss|criterion)\w*\.cent(?:er|re)(?:\.cent(?:er|re))?")
CLASSIFIER = re.compile(r"(?:vit\.)?head\.(?:weight|bias)")  # which such training leaves random
# The modules of torchvision's ResNet in an `nn.Sequential`, as in lightly's examples.
SEQUENTIAL = {"0": "conv1", "1": "bn1", "4": "layer1", "5": "layer2", "6": "layer3", "7": "layer4"}


def without(name: str, prefixes: tuple[str, ...] = TRAINING_PREFIXES) -> str:
    """The name without any of the prefixes, however many there are."""
    while name.startswith(prefixes):
        name = name.removeprefix(next(prefix for prefix in prefixes if name.startswith(prefix)))
    return name


def networks_beside(names: Iterable[str]) -> list[str]:
    """`student`, `teacher`, both or neither: what tensors of these names hold side by side."""
    return sorted(_pair([without(name) for name in names]))


def one_of_pair(tensors: Mapping[str, Tensor], checkpoint_key: str) -> dict[str, Tensor]:
    """The network that is asked for, without what is known to lie beside it: the other one, heads,
    classifiers and centres. All tensors where there is no such pair.

    Raises `TaskError` when there is only the other one.
    """
    bare = {without(name): tensor for name, tensor in tensors.items()}
    pair = _pair(list(bare))
    if not pair:
        return dict(tensors)
    if checkpoint_key not in pair:
        raise TaskError(f"it holds no {checkpoint_key}", f"use --checkpoint-key {next(iter(pair))}")
    prefix = pair.pop(checkpoint_key)
    network = {}
    for name, tensor in bare.items():
        beside = name.removeprefix(WHOLE) if prefix.startswith(WHOLE) else name
        if name.startswith(prefix):
            inner = without(name.removeprefix(prefix))
            if not CLASSIFIER.fullmatch(inner):
                network[inner] = tensor
        elif not (
            name.startswith(tuple(pair.values())) or HEAD.match(beside) or CENTRE.fullmatch(beside)
        ):
            network[name] = tensor  # unexpected, as strictness will say
    return _named(network)


def _pair(names: list[str]) -> dict[str, str]:
    """The prefix of each network; empty unless one of them is called student or teacher."""
    for lead in ("", WHOLE):
        found = {key: _used(names, lead, prefixes) for key, prefixes in PREFIXES.items()}
        if any(found.values()):
            pair = {key: used or _used(names, lead, UNNAMED) for key, used in found.items()}
            return {key: used for key, used in pair.items() if used}
    return {}


def _used(names: list[str], lead: str, prefixes: tuple[str, ...]) -> str:
    """The first prefix that any name has; empty for none."""
    led = (lead + prefix for prefix in prefixes)
    return next((p for p in led if any(name.startswith(p) for name in names)), "")


def _named(network: dict[str, Tensor]) -> dict[str, Tensor]:
    """A ResNet whose modules go by their numbers, under its own names."""
    if not {"0.weight", "1.weight", "4.0.conv1.weight"} <= network.keys():
        return network
    parts = ((name, *name.partition(".")) for name in network)
    return {SEQUENTIAL.get(first, first) + dot + rest: network[n] for n, first, dot, rest in parts}

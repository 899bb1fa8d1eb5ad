"""One video: its first mask carried on frame by frame, and measured where the truth is known."""

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from dino_cli.config.eval_video import EvalVideoConfig
from dino_cli.config.shared import Preprocessing
from dino_cli.core.evaluation.propagation import Propagation, enlarge
from dino_cli.core.evaluation.region import contour_accuracy, region_similarity
from dino_cli.data.decoding.decode import UnreadableImage
from dino_cli.data.decoding.labelmaps import resize_labels
from dino_cli.data.decoding.propagation_frames import read_frame
from dino_cli.data.preprocess import normalize
from dino_cli.errors import TaskError, UsageError
from dino_cli.progress import Reporter
from dino_cli.store.benchmarks.davis import Labels, Video, encode_labels, read_labels
from dino_cli.tasks.model import Model

__all__ = ["CarriedMasks", "RegionScores", "carry"]

Numbers = NDArray[np.uint8]
Sizes = tuple[int, int]


@dataclass
class RegionScores:
    """J and F of each object (its first index, from 0) in each measured frame, in order."""

    region: list[list[float]]
    contour: list[list[float]]

    @classmethod
    def of(cls, objects: int) -> "RegionScores":
        """No frame yet."""
        return cls([[] for _ in range(objects)], [[] for _ in range(objects)])

    def add(self, truth: Numbers, predicted: Numbers) -> None:
        """One more frame: label maps (H, W)."""
        for i, (region, contour) in enumerate(zip(self.region, self.contour, strict=True)):
            masks = truth == i + 1, predicted == i + 1
            region.append(region_similarity(*masks))
            contour.append(contour_accuracy(*masks))


@dataclass
class CarriedMasks:
    """What became of a video. files: a PNG for each frame by its name; still: the measures of the
    first mask, copied to every frame."""

    objects: int
    measured: RegionScores
    still: RegionScores
    files: dict[str, bytes] = field(default_factory=dict)


@dataclass(frozen=True)
class _Finished:
    name: str
    png: bytes
    measured: RegionScores
    still: RegionScores


def carry(
    video: Video,
    model: Model,
    p: Preprocessing,
    config: EvalVideoConfig,
    pool: ThreadPoolExecutor,
    reporter: Reporter,
) -> CarriedMasks:
    """Carry the first mask through the video; see `core.evaluation.propagation`.

    The frames are streamed: memory holds the context, some frames on their way, and the PNGs. As
    the official evaluator does, the first and the last frame with a mask are not measured.
    """
    first = read_labels(video.first_mask)
    carried = CarriedMasks(
        first.objects, RegionScores.of(first.objects), RegionScores.of(first.objects)
    )
    judged = set([f.stem for f in video.frames if f.stem in video.masks][1:-1])
    ahead = 2 * max(config.batch_size, 2)
    finishing: deque[Future[_Finished]] = deque()

    def collect(most: int) -> None:
        while len(finishing) > most:
            done = finishing.popleft().result()
            carried.files[f"{done.name}.png"] = done.png
            _join(carried.measured, done.measured)
            _join(carried.still, done.still)
            reporter.advance()

    frames = _read_ahead(video, config.image_size, model.backbone.patch_size, pool, ahead)
    for path, labels, photo in _propagate(video, frames, first, model, p, config):
        truth = video.masks[path.stem] if path.stem in judged else None
        finishing.append(pool.submit(_finish, path.stem, labels, photo, first, truth))
        collect(ahead)
    collect(0)
    return carried


def _propagate(
    video: Video,
    frames: Iterator[tuple[NDArray[np.uint8], Sizes]],
    first: Labels,
    model: Model,
    p: Preprocessing,
    config: EvalVideoConfig,
) -> Iterator[tuple[Path, Numbers, Sizes]]:
    """Each frame with its label map at the network's size and its size in the file."""
    present = np.union1d([0], np.unique(first.numbers)).astype(np.uint8)
    patch_size, run = model.backbone.patch_size, None
    position, size = 0, first.numbers.shape
    for pixels, photos in _batches(frames, config.batch_size):
        for photo, path in zip(photos, video.frames[position:], strict=False):
            if photo != size:
                raise TaskError(
                    f"the frame {str(path)!r} has {photo[1]} x {photo[0]} pixels, the first mask"
                    f" {size[1]} x {size[0]}",
                    "all frames and masks of a video must have one size",
                )
        grid = pixels.shape[2] // patch_size, pixels.shape[3] // patch_size
        for tokens, photo in zip(_tokens(pixels, grid, model, p), photos, strict=True):
            path = video.frames[position]
            position += 1
            if run is None:
                small = resize_labels(
                    np.searchsorted(present, first.numbers).astype(np.uint8), grid
                )
                mask = F.one_hot(torch.from_numpy(small).long(), len(present)).permute(2, 0, 1)
                run = Propagation(
                    tokens,
                    mask.to(model.device),
                    frames=config.n_last_frames,
                    reach=config.size_mask_neighborhood,
                    topk=config.topk,
                )
                yield path, first.numbers, photo
                continue
            labels = enlarge(run.step(tokens), patch_size).argmax(dim=0).cpu().numpy()
            yield path, present[labels], photo


def _tokens(pixels: Tensor, grid: Sizes, model: Model, p: Preprocessing) -> Tensor:
    """Patch tokens (B, N, D) of frames, uint8 (B, 3, H, W)."""
    try:
        with model.forward(pixels, "frames"):
            tokens = model.backbone.tokens(normalize(pixels, p, model.device))
    except ValueError:
        tokens = pixels.new_empty(0, 0, 0)
    tokens = tokens[:, model.backbone.prefix_tokens :]
    if tokens.shape[1] != grid[0] * grid[1]:
        raise UsageError(
            f"{model.weights.name} has no tokens of patches to compare",
            "use a ViT, such as --model dino_vits16",
        )
    model.check_finite(tokens)
    return tokens


def _finish(
    name: str, labels: Numbers, photo: Sizes, first: Labels, truth: Path | None
) -> _Finished:
    """In a thread: the mask at the frame's size as a PNG, and measured."""
    numbers = resize_labels(labels, photo)
    measured, still = RegionScores.of(first.objects), RegionScores.of(first.objects)
    if truth is not None:
        true = read_labels(truth, binary=first.binary).numbers
        if true.shape != numbers.shape:
            raise TaskError(
                f"the mask {str(truth)!r} has {true.shape[1]} x {true.shape[0]} pixels, its frame"
                f" {photo[1]} x {photo[0]}",
                "give masks of the frames' size",
            )
        measured.add(true, numbers)
        still.add(true, first.numbers)
    return _Finished(name, encode_labels(numbers, first.palette), measured, still)


def _join(all_frames: RegionScores, frame: RegionScores) -> None:
    for name in ("region", "contour"):
        for values, more in zip(getattr(all_frames, name), getattr(frame, name), strict=True):
            values.extend(more)


def _read_ahead(
    video: Video, short: int, patch_size: int, pool: ThreadPoolExecutor, ahead: int
) -> Iterator[tuple[NDArray[np.uint8], Sizes]]:
    reading: deque[Future[tuple[NDArray[np.uint8], Sizes]]] = deque()
    waiting = iter(video.frames)
    for path in video.frames:
        while len(reading) < ahead and (following := next(waiting, None)) is not None:
            reading.append(pool.submit(read_frame, following, short, patch_size))
        try:
            yield reading.popleft().result()
        except UnreadableImage as error:
            raise TaskError(
                f"cannot read the frame {str(path)!r}: {error.reason}",
                "repair it: labels cannot be carried past a missing frame",
            ) from None


def _batches(
    frames: Iterator[tuple[NDArray[np.uint8], Sizes]], size: int
) -> Iterator[tuple[Tensor, Sequence[Sizes]]]:
    """Frames of one shape, uint8 (B, 3, H, W), with their sizes in the files."""
    batch: list[tuple[NDArray[np.uint8], Sizes]] = []
    for frame in frames:
        if batch and (len(batch) == size or frame[0].shape != batch[0][0].shape):
            yield _stacked(batch)
            batch = []
        batch.append(frame)
    if batch:
        yield _stacked(batch)


def _stacked(batch: Sequence[tuple[NDArray[np.uint8], Sizes]]) -> tuple[Tensor, list[Sizes]]:
    pixels = np.ascontiguousarray(np.stack([frame for frame, _ in batch]).transpose(0, 3, 1, 2))
    return torch.from_numpy(pixels), [photo for _, photo in batch]

"""Renders the views of a batch together, as tensors on any device (paper, section 3.2).

The same stages as `data.views.render`, on the same draws, rounded to whole grey levels where PIL
rounds: the tests hold both to PIL. Nothing here waits for the device.

Shapes: B photos, V views of a group, h × w pixels of a view, N = V · B views in view-major order.
"""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from dino_cli.config.shared import Preprocessing
from dino_cli.data.decoding.own_depth import LUMINANCE
from dino_cli.data.preprocess import normalize
from dino_cli.data.views.draws import SIGMA
from dino_cli.data.views.pack import PhotoBatch
from dino_cli.data.views.render import BLUR_PASSES, blur_box

__all__ = ["render_batch", "render_views"]

LARGEST = 2**25  # numbers in one intermediate product: 64 MB in half precision
WEIGHTS = tuple(round(2**16 * weight) for weight in LUMINANCE)  # whole, as PIL's mode L takes them


def render_views(batch: PhotoBatch, p: Preprocessing, device: torch.device) -> list[Tensor]:
    """The normalised views of each resolution, float32 (V · B, C, h, w), view-major."""
    # Grey levels are whole: as bytes they are normalised as those of workers, and in less memory.
    return [normalize(group.byte(), p, device) for group in render_batch(batch, device)]


@torch.no_grad()
def render_batch(batch: PhotoBatch, device: torch.device) -> list[Tensor]:
    """The views of each resolution in grey levels, float32 (V · B, 3, h, w), view-major."""
    pixels, rows, values = (
        tensor.to(device, non_blocking=True) for tensor in (batch.pixels, batch.rows, batch.values)
    )
    photos = sum(n for n, _, _ in batch.blocks) + batch.ready
    boxes, at = [], 0
    for views, _ in batch.sizes:
        boxes.append(values[at : at + views * photos * 5].view(views, photos, 5))
        at += views * photos * 5
    groups = [torch.empty((views, photos, 3, *size), device=device) for views, size in batch.sizes]
    for members, block in _blocks(batch, pixels, rows):
        for group, box in zip(groups, boxes, strict=True):
            views, _, _, *size = group.shape
            # As many photos at a time as keep the product after the first pass small.
            step = max(1, LARGEST // (views * size[1] * 3 * block.shape[1]))
            for first in range(0, len(members), step):
                part = members[first : first + step]
                some = block[first : first + step]
                group.index_copy_(1, part, _resampled(some, box.index_select(1, part), *size))
    if batch.ready:
        _take_ready(batch, pixels, rows, boxes, groups)
    flat = [group.flatten(0, 1) for group in groups]
    # The values of the stages follow the boxes, their rows what `_blocks` used.
    shift = at - photos
    for g, name, start, stop in batch.stages:
        where, value = rows[start:stop], values[start + shift : stop + shift]
        changed = STAGES[name](flat[g].index_select(0, where), value.view(-1, 1, 1, 1))
        flat[g].index_copy_(0, where, changed)
    return flat


def _blocks(batch: PhotoBatch, pixels: Tensor, rows: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Positions (n,) and pixels (n, H, W, 3) of each block of photos."""
    row = byte = 0
    for n, height, width in batch.blocks:
        length = n * height * width * 3
        yield rows[row : row + n], pixels[byte : byte + length].view(n, height, width, 3)
        row, byte = row + n, byte + length


def _take_ready(
    batch: PhotoBatch, pixels: Tensor, rows: Tensor, boxes: list[Tensor], groups: list[Tensor]
) -> None:
    """Copy the crops that the workers have resampled, flipped where they shall be."""
    row = sum(n for n, _, _ in batch.blocks)
    byte = sum(n * height * width * 3 for n, height, width in batch.blocks)
    members = rows[row : row + batch.ready]
    for (views, (h, w)), box, group in zip(batch.sizes, boxes, groups, strict=True):
        length = batch.ready * views * h * w * 3
        crops = pixels[byte : byte + length].view(batch.ready, views, h, w, 3)
        crops = crops.permute(1, 0, 4, 2, 3).float()
        flip = box.index_select(1, members)[..., 4].view(views, -1, 1, 1, 1) > 0
        group.index_copy_(1, members, torch.where(flip, crops.flip(-1), crops))
        byte += length


def _resampled(photos: Tensor, boxes: Tensor, h: int, w: int) -> Tensor:
    """Crops at their size, flipped: photos (n, H, W, 3), boxes (V, n, 5) → (V, n, 3, h, w).

    Two products per photo, first along the rows, then down the columns, rounded in between: PIL's
    order. Bytes are exact in half precision, and weights off by a 4000th: 0.1 grey levels.
    """
    n, height, width, _ = photos.shape
    views = boxes.shape[0]
    dtype = torch.float16 if photos.is_cuda else torch.float32
    left, top, wide, high, flip = boxes.transpose(0, 1).unbind(-1)  # each (n, V)
    across = _weights(left, wide, w, width, flip).to(dtype)
    down = _weights(top, high, h, height, torch.zeros_like(flip)).to(dtype)
    x = photos.permute(0, 3, 1, 2).to(dtype).reshape(n, 3 * height, width)
    x = x @ across.reshape(n, views * w, width).mT
    x = x.round_().clamp_(0, 255).view(n, 3, height, views, w)
    x = x.permute(0, 3, 2, 1, 4).reshape(n, views, height, 3 * w)
    x = (down @ x).float().round_().clamp_(0, 255)
    return x.view(n, views, h, 3, w).permute(1, 0, 3, 2, 4)


def _weights(start: Tensor, length: Tensor, size: int, pixels: int, flip: Tensor) -> Tensor:
    """PIL's antialiased bicubic filter of crops as matrices (…, size, pixels).

    start, length: first pixel and number of pixels of each crop (…); flip: 1 turns it round. The
    cubic has a = -0.5 and is as wide as the pixels of the result; outside the crop the weights are
    0, and they sum to 1.
    """
    scale = (length / size)[..., None, None]
    out = torch.arange(size, device=start.device)[:, None]
    out = torch.where(flip[..., None, None] > 0, size - 1 - out, out)
    inside = torch.arange(pixels, device=start.device) - start[..., None, None]
    t = ((inside + 0.5 - (out + 0.5) * scale) / scale.clamp(min=1)).abs()
    near = (1.5 * t - 2.5) * t * t + 1
    far = ((-0.5 * t + 2.5) * t - 4) * t + 2
    weights = torch.where(t < 1, near, torch.where(t < 2, far, 0.0))
    weights = torch.where((inside >= 0) & (inside < length[..., None, None]), weights, 0.0)
    return weights / weights.sum(dim=-1, keepdim=True)


# The stages: views (N, 3, h, w) in whole grey levels and a value per view (N, 1, 1, 1) → the same.


def _luminance(x: Tensor) -> Tensor:
    red, green, blue = (w * x[:, i : i + 1] for i, w in enumerate(WEIGHTS))
    return ((red + green + blue + 32768) / 65536).floor_()


def _blended(start: Tensor | float, x: Tensor, factor: Tensor) -> Tensor:
    return (start + factor * (x - start)).clamp_(0, 255).floor_()


def _brightness(x: Tensor, factor: Tensor) -> Tensor:
    return (factor * x).clamp_(0, 255).floor_()


def _contrast(x: Tensor, factor: Tensor) -> Tensor:
    mean = (_luminance(x).mean(dim=(1, 2, 3), keepdim=True) + 0.5).floor_()
    return _blended(mean, x, factor)


def _saturation(x: Tensor, factor: Tensor) -> Tensor:
    return _blended(_luminance(x), x, factor)


def _hue(x: Tensor, shift: Tensor) -> Tensor:
    """Through PIL's 8-bit HSV, whose hue wraps at 256 while 255 is the full circle."""
    top, low = x.amax(dim=1, keepdim=True), x.amin(dim=1, keepdim=True)
    red, green, blue = ((top - x) / (top - low).clamp(min=1)).chunk(3, dim=1)
    hue = torch.where(green == 0, 2 + red - blue, 4 + green - red)
    hue = torch.where(red == 0, blue - green, hue)
    hue = torch.where(top == low, 0.0, (hue / 6 + 1).remainder_(1))
    hue = ((hue * 255 + 1e-4).floor_() + shift).remainder_(256)
    share = ((top - low) / top.clamp(min=1) * 255 + 1e-3).floor_() / 255
    # Red, green and blue are full where the hue is within a sixth of theirs.
    sector = torch.arange(5, 0, -2, device=x.device).view(1, 3, 1, 1)
    k = (hue * (6 / 255) + sector).remainder_(6)
    return (top - top * share * torch.minimum(k, 4 - k).clamp_(0, 1)).round_()


def _grey(x: Tensor, _: Tensor) -> Tensor:
    return _luminance(x).expand_as(x)


def _blur(x: Tensor, sigma: Tensor) -> Tensor:
    """Three boxes in each direction, edge pixels repeated each time: two products with matrices."""
    h, w = x.shape[-2:]
    dtype = torch.float16 if x.is_cuda else torch.float32
    across = _blur_filters(sigma, w).to(dtype)
    down = across if h == w else _blur_filters(sigma, h).to(dtype)
    return (down @ (x.to(dtype) @ across.mT)).float().round_().clamp_(0, 255)


def _blur_filters(sigma: Tensor, size: int) -> Tensor:
    """The blur of each view along one direction, (N, 1, size, size)."""
    variance = sigma.view(-1, 1, 1) ** 2 / BLUR_PASSES
    radius = (((12 * variance + 1).sqrt() - 1) / 2).floor_()
    share = (2 * radius + 1) * (radius * (radius + 1) - 3 * variance)
    share = share / (6 * (variance - (radius + 1) ** 2))
    at = torch.arange(size, device=sigma.device)
    box = torch.zeros((len(sigma), size, size), device=sigma.device)
    reach = blur_box(SIGMA[1])[0] + 1
    for offset in range(-reach, reach + 1):
        weight = torch.where(radius >= abs(offset), 1.0, 0.0)
        weight = torch.where(radius + 1 == abs(offset), share, weight)
        box += weight * ((at[:, None] + offset).clamp(0, size - 1) == at)
    box /= 2 * radius + 1 + 2 * share
    filters: Tensor = torch.linalg.matrix_power(box, BLUR_PASSES)[:, None]
    return filters


def _solarize(x: Tensor, _: Tensor) -> Tensor:
    return torch.where(x >= 128, 255 - x, x)


STAGES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "brightness": _brightness,
    "contrast": _contrast,
    "saturation": _saturation,
    "hue": _hue,
    "grey": _grey,
    "blur": _blur,
    "solarize": _solarize,
}

# ruff: noqa: T201
"""How well masks without labels fit true ones: each kind, as patches and fitted to the photo.

    python tests/benchmarks/attention_masks.py IMAGES MASKS --weights FILE

IMAGES and MASKS hold files of the same stems; a mask is above 127. Every third photo is the part to
choose settings on; the others only test. Printed: mean intersection over union at the photo's own
size; process time of one core per photo beyond the network's forward; how well the score without
truth tells masks below .5, with its rank correlation.
"""

import argparse
import time
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image

from dino_cli.config.attention import AttentionConfig
from dino_cli.core.masks.layout import PatchLayout
from dino_cli.core.masks.objects import (
    GUESS_BELOW,
    best_heads,
    certainties,
    cut_masks,
    seeded_masks,
    token_masks,
)
from dino_cli.core.masks.refine import cut, guided_mask
from dino_cli.core.masks.threshold import threshold_mass
from dino_cli.data.decoding.decode import read_image
from dino_cli.data.listing.formats import image_suffixes
from dino_cli.data.preprocess import build_transform, normalize
from dino_cli.progress import Reporter
from dino_cli.tasks.model import open_model

SHARE = 0.6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("images", type=Path)
    parser.add_argument("masks", type=Path)
    parser.add_argument("--model", default="dino_vits16")
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--image-size", type=int)
    parser.add_argument("--precision", default="auto")
    options = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    config = AttentionConfig(
        model=options.model, weights=options.weights, precision=options.precision, device="cpu"
    )
    model = open_model(config, Reporter())
    p = replace(
        model.preprocessing,
        resize=options.image_size or model.weights.attention_size,
        crop=None,
        interpolation="bilinear",
        multiple=1,
    )
    transform = build_transform(p)
    files = sorted(f for f in options.images.rglob("*") if f.suffix.lower() in image_suffixes())
    ious: dict[str, list[float]] = defaultdict(list)
    scores: dict[str, list[float]] = defaultdict(list)
    seconds: dict[str, list[float]] = defaultdict(list)
    traits: dict[str, list[bool]] = defaultdict(list)
    for number, file in enumerate(files, 1):
        photo = np.asarray(read_image(file))
        truth_file = (options.masks / file.relative_to(options.images)).with_suffix(".png")
        truth = np.asarray(Image.open(truth_file).convert("L")) > 127
        resized = transform(Image.fromarray(photo))
        layout = PatchLayout(photo.shape[:2], resized.shape[:2], model.backbone.patch_size)
        rows, columns = layout.trimmed
        pixels = torch.from_numpy(resized[:rows, :columns].copy()).permute(2, 0, 1)[None]
        start = time.process_time()
        with model.autocast():
            x = normalize(pixels.contiguous(), p, model.device)
            heads, keys, tokens = model.backbone.attention_keys_and_tokens(x)
        seconds["forward"].append(time.process_time() - start)

        def spend(name, work, *arguments):
            start = time.process_time()
            result = work(*arguments)
            seconds[name].append(time.process_time() - start)
            return result

        def fitted(mask, covered=layout.covered, photo=photo):
            part = np.ascontiguousarray(photo[: covered[0], : covered[1]])
            placed = np.zeros(photo.shape[:2], bool)
            placed[: covered[0], : covered[1]] = cut(guided_mask(mask, part), covered)
            return placed

        def measure(name, mask, layout=layout, truth=truth, fitted=fitted, spend=spend):
            ious[name].append(overlap(np.asarray(layout.enlarge(mask), bool), truth))
            ious[name + ", guided"].append(overlap(spend("guided", fitted, mask), truth))

        masks = threshold_mass(heads[0], SHARE).numpy()
        seeded = spend("seeded", seeded_masks, heads, keys)
        best = spend("best head", best_heads, heads, seeded, SHARE)[0]
        whole = {
            "seeded": seeded,
            "tokens": spend("tokens", token_masks, heads, tokens),
            "cut": spend("cut", cut_masks, heads, keys),
        }
        clear = float(spend("score", certainties, keys, seeded).mean())
        for kind, found in whole.items():
            measure(kind, found[0].numpy())
            agreed = overlap(found[0].numpy(), seeded[0].numpy())
            scores[kind].append(agreed if kind == "cut" else clear)
        measure("mean head", threshold_mass(heads[0].mean(0), SHARE).numpy())
        for head, mask in enumerate(masks):
            measure(f"head {head}", mask)
        for end in ("", ", guided"):
            of_heads = [ious[f"head {head}{end}"][-1] for head in range(len(masks))]
            ious["best head" + end].append(of_heads[best])
            ious["oracle head" + end].append(max(of_heads))
        traits["all"].append(True)
        traits["chosen on"].append(number % 3 == 1)
        traits["others"].append(number % 3 != 1)
        _, _, stats, _ = cv2.connectedComponentsWithStats(truth.astype(np.uint8))
        edge = np.concatenate([truth[0], truth[-1], truth[:, 0], truth[:, -1]])
        traits["others: several"].append(
            number % 3 != 1 and int((stats[1:, 4] >= 0.01 * truth.size).sum()) > 1
        )
        traits["others: below 10 %"].append(number % 3 != 1 and bool(truth.mean() < 0.1))
        traits["others: at border"].append(number % 3 != 1 and bool(edge.mean() > 0.01))
        if number % 25 == 0:
            print(f"{number} of {len(files)}", flush=True)
    report(ious, scores, seconds, traits)


def overlap(a, b):
    either = (a | b).sum()
    return float((a & b).sum() / either) if either else 1.0


def report(ious, scores, seconds, traits) -> None:
    parts = {name: np.array(values) for name, values in traits.items()}
    print("\nIoU | " + " | ".join(f"{name} ({part.sum()})" for name, part in parts.items()))
    for name, values in ious.items():
        row = [f"{np.array(values)[part].mean():.3f}" for part in parts.values() if part.any()]
        print(f"{name} | " + " | ".join(row))
    print("\nms of one core (process time, median)")
    for name, values in seconds.items():
        print(f"{name} | {1000 * np.median(values):.1f}")
    print("\nscore: rank correlation with IoU; and a guess below a threshold")
    for kind, values in scores.items():
        score, iou = np.array(values), np.array(ious[f"{kind}, guided"])
        for part in ("chosen on", "others"):
            s, v = score[parts[part]], iou[parts[part]]
            rank = np.corrcoef(s.argsort().argsort(), v.argsort().argsort())[0, 1]
            print(f"{kind}, {part}: {rank:.2f}", end="; ")
            for limit in sorted({GUESS_BELOW[kind], *np.quantile(s, [0.1, 0.2, 0.3, 0.4])}):
                low = s < limit
                wrong = v < 0.5
                print(
                    f"{limit:.3f}: {low.sum()} said, IoU {v[low].mean() if low.any() else 0:.2f}"
                    f" against {v[~low].mean():.2f}, {(low & wrong).sum()} of {wrong.sum()}"
                    " below .5",
                    end="; ",
                )
            print()


if __name__ == "__main__":
    main()

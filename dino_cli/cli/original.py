"""Options of facebookresearch/dino that have another name here, for whoever types them."""

from collections.abc import Collection

__all__ = ["said_of_original"]

RENAMED = {
    "avgpool_patchtokens": "--avgpool",
    "batch_size_per_gpu": "--batch-size",
    "bs": "--batch-size",
    "distractors_path": "--distractors",
    "drop_path_rate": "--drop-path",
    "evaluate": "--classifier",
    "imsize": "--image-size",
    "multiscale": "--multi-scale",
    "nb_knn": "-k",
    "num_workers": "--workers",
    "output_dir": "--output",
    "output_path": "--output",
    "pretrained_weights": "--weights",
    "resize": "--image-size",
    "saveckp_freq": "--keep-every",
    "use_cuda": "--device",
    "use_fp16": "--precision",
    "whitening_path": "--whitening",
}
ELSEWHERE = {
    "data_path": "data are arguments here, without an option",
    "dataset": "the data set's folder is an argument here, without an option",
    "dist_url": "leave it out: torchrun says where the processes meet",
    "dump_features": "dino embed writes features",
    "image_path": "images are arguments here, without an option",
    "input_path": "images and videos are arguments here, without an option",
    "load_features": "dino knn reads features, by --index",
    "local_rank": "leave it out: all GPUs are used",
    "num_labels": "leave it out: the folders are counted",
    "pretrained_weights": "dino train begins from weights by --init-from",
    "val_freq": "leave it out",
    "video_format": "leave it out: videos are .mp4",
    "video_only": "leave it out: of a video only videos are made",
}


def said_of_original(option: str, known: Collection[str]) -> str | None:
    """What to type in place of an option, if it is the original's; known: those of the command."""
    name = option.lstrip("-")
    if RENAMED.get(name) in known:
        return f"the original's {option} is {RENAMED[name]} here"
    return ELSEWHERE.get(name)

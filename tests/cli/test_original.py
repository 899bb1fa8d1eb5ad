"""Whoever knows the scripts of facebookresearch/dino finds every option of theirs."""

import re

import pytest
from in_process import command_tree, refusal

from dino_cli.cli.help import TOPICS
from dino_cli.cli.original import RENAMED, said_of_original

# As its scripts declare them, at commit 7c446df.
EVERYWHERE = "arch patch_size pretrained_weights checkpoint_key"
LAUNCHED = "num_workers dist_url local_rank data_path"
SCRIPTS = {
    "train": """
        arch patch_size out_dim norm_last_layer momentum_teacher use_bn_in_head warmup_teacher_temp
        teacher_temp warmup_teacher_temp_epochs use_fp16 weight_decay weight_decay_end clip_grad
        batch_size_per_gpu epochs freeze_last_layer lr warmup_epochs min_lr optimizer drop_path_rate
        global_crops_scale local_crops_number local_crops_scale data_path output_dir saveckp_freq
        seed num_workers dist_url local_rank""",
    "eval knn": f"""{EVERYWHERE} {LAUNCHED} batch_size_per_gpu nb_knn temperature use_cuda
        dump_features load_features""",
    "eval linear": f"""{EVERYWHERE} {LAUNCHED} n_last_blocks avgpool_patchtokens epochs lr
        batch_size_per_gpu val_freq output_dir num_labels evaluate""",
    "eval retrieval": f"{EVERYWHERE} {LAUNCHED} dataset multiscale imsize use_cuda",
    "eval copies": f"""{EVERYWHERE} {LAUNCHED} whitening_path distractors_path imsize
        batch_size_per_gpu use_cuda""",
    "eval video": f"""{EVERYWHERE} output_dir data_path n_last_frames size_mask_neighborhood topk
        bs""",
    "attention": f"""{EVERYWHERE} image_path image_size output_dir threshold input_path output_path
        resize video_only fps video_format""",
}


def options(command):
    found = command_tree()
    for word in command.split():
        found = found.commands[word]
    return {flag for parameter in found.params for flag in parameter.opts}


@pytest.mark.parametrize(
    ("command", "name"), [(c, name) for c, names in SCRIPTS.items() for name in names.split()]
)
def test_every_option_has_its_place(command, name):
    hyphened = "--" + name.replace("_", "-")
    if hyphened in options(command):
        return
    said = said_of_original(f"--{name}", options(command))
    assert said
    assert refusal(2, *command.split(), "x", f"--{name}", "1").endswith(
        f"error: no such option '--{name}'; {said}"
    )


def test_names_with_underscores_are_told_with_hyphens():
    said = refusal(2, "train", "x", "--patch_size", "8")
    assert said.endswith("no such option '--patch_size'; did you mean '--patch-size'?")


def test_the_topic_tells_the_same_names():
    table = re.search(r"```text\n(.*?)```", (TOPICS / "original.md").read_text(), re.DOTALL)
    told = {}
    for line in table[1].splitlines():
        names, option = re.split(r"  +", line)
        told |= dict.fromkeys(names.split(", "), option)
    for name, option in RENAMED.items():
        assert option in told.pop(name).split(", ")
    assert {name: re.sub(".* of ", "", option) for name, option in told.items()} == {
        "dump_features": "dino embed",
        "load_features": "dino knn",
    }

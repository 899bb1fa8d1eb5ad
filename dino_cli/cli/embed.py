"""`dino embed`."""

from typing import Any

from dino_cli.cli.app import app
from dino_cli.cli.display import Terminal
from dino_cli.cli.options import command
from dino_cli.config.embed import EmbedConfig


@command(app, "embed", EmbedConfig)
def embed(config: EmbedConfig, terminal: Terminal) -> dict[str, Any] | None:
    """Export one feature vector per picture.

    Writes feats.npy (float32, N x D), feats.csv (path and label of each row; the label is the
    class folder) and feats.json (the model and preprocessing, so that `dino knn` need not be told);
    or one .npz, .safetensors, .parquet or .csv. `torchrun -m dino_cli embed …` shares the work.

    Example: dino embed photos/ -o feats.npy
    """
    from dino_cli.tasks.early import check_inputs, check_output, reach_model

    check_inputs(config.paths)
    going_on = config.overwrite or config.append or config.resume
    check_output(config.output, overwrite=going_on)
    reach_model(config, config.paths)
    from dino_cli.tasks.embed.run import embed as run

    result = run(config, terminal)
    if not result:
        return None  # one process speaks for all
    skipped = ""
    if result["skipped"]:
        skipped = f", {result['skipped']} skipped (see {result['skipped_list']})"
    new = f" ({result['embedded']} new)" if "embedded" in result else ""
    speed = f", {result['seconds']:.1f} s"
    if result.get("embedded", 1):
        speed += f", {result['images_per_second']:.3g} images/s"
    terminal.line(f"{result['output']}: {result['count']} x {result['dim']}{new}{skipped}{speed}")
    return result

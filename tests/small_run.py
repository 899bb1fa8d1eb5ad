"""Training so small that a whole run takes seconds on a CPU."""

from pathlib import Path

from dino_cli.store.runs.log import Log

SETTINGS: dict[str, object] = {
    "arch": "vit_tiny",
    "patch_size": 8,
    "width": 32,
    "depth": 2,
    "heads": 2,
    "out_dim": 64,
    "head_hidden": 48,
    "head_bottleneck": 16,
    "batch_size": 8,
    "epochs": 3,
    "global_size": 32,
    "local_size": 16,
    "local_crops_number": 2,
    "device": "cpu",
    "precision": "fp32",
    "workers": 0,
    "log_every": 1,
    "warmup_epochs": 1,
}


def small_config(**changes: object) -> str:
    """The text of a `--config` file: these settings, and what a test has otherwise."""
    lines = []
    for name, value in {**SETTINGS, **changes}.items():
        text = str(value).lower() if isinstance(value, bool) else value
        lines.append(f'{name} = "{text}"' if isinstance(value, str) else f"{name} = {text}")
    return "\n".join(lines) + "\n"


def losses(run: Path) -> dict[int, float]:
    """By step, as the log has them."""
    return {e["step"]: e["loss"] for e in Log.read(Path(run) / "log.jsonl") if "step" in e}

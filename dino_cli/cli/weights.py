"""`dino weights list|path|download|inspect|verify|remove`."""

from typing import Any

import typer

from dino_cli.cli.app import app
from dino_cli.cli.display import Terminal
from dino_cli.cli.options import command
from dino_cli.config.weights import (
    WeightsDownloadConfig,
    WeightsInspectConfig,
    WeightsListConfig,
    WeightsPathConfig,
    WeightsRemoveConfig,
    WeightsVerifyConfig,
)
from dino_cli.errors import DinoError, TaskError

weights = typer.Typer(
    no_args_is_help=True, help="Weights: list, fetch and check released ones, look into files."
)
app.add_typer(weights, name="weights")

COLUMNS = ["name", "architecture", "M params", "k-NN", "linear", "licence", "MB", "on disk"]
SHOWN = 6  # names of tensors in a list


@command(weights, "list", WeightsListConfig)
def list_(config: WeightsListConfig, terminal: Terminal) -> list[dict[str, Any]]:
    """List the models known by name.

    k-NN and linear are the top-1 that their authors published for ImageNet, in percent. MB is the
    file's size, about four bytes a parameter where it is not on this disk. Any Hugging Face or
    timm name works with --model too.
    """
    from dino_cli.tasks.weights import list_weights

    records = list_weights()
    rows = []
    for record in records:
        patch = f", patch {record['patch_size']}" if record["patch_size"] else ""
        architecture = f"{record['architecture'] or 'vit'}{patch}"
        figures = [_figure(record[key]) for key in ("parameters", "knn", "linear")]
        here = "yes" if record["path"] else "not here"
        row = [record["name"], architecture, *figures, record["licence"], _megabytes(record), here]
        rows.append(row)
    terminal.table("", COLUMNS, rows)
    return records


@command(weights, "path", WeightsPathConfig)
def path(config: WeightsPathConfig, terminal: Terminal) -> dict[str, str]:
    """Print where a model's weights lie on this disk; never asks the network."""
    from dino_cli.tasks.weights import weights_path

    found = str(weights_path(config.name))
    terminal.line(found)
    return {"name": config.name, "path": found}


@command(weights, "download", WeightsDownloadConfig)
def download(config: WeightsDownloadConfig, terminal: Terminal) -> dict[str, str]:
    """Fetch weights ahead of time, and print where they lie.

    Example: dino weights download dino_vits16 dino_vitb8 --to weights/
    """
    from dino_cli.tasks.weights import download_weights

    try:
        found = download_weights(config, terminal)
    except DinoError as error:
        if isinstance(error.result, dict):
            _show_places(error.result, terminal)
        raise
    _show_places(found, terminal)
    return found


def _show_places(found: dict[str, str], terminal: Terminal) -> None:
    for name, where in found.items():
        terminal.line(f"{name}\t{where}")


@command(weights, "inspect", WeightsInspectConfig)
def inspect(config: WeightsInspectConfig, terminal: Terminal) -> dict[str, Any]:
    """Tell what a file of weights holds, without building a network.

    Architecture, layout of the names, precision, SHA-256, values that are not finite; for a file
    that does not fit, which tensors are missing and what it looks like instead.

    Example: dino weights inspect checkpoint.pth
    """
    from dino_cli.tasks.weights import inspect_file

    told = inspect_file(config)
    terminal.table("", ["what", "value"], [[k, v] for k, v in _told(told).items() if v])
    return told


@command(weights, "verify", WeightsVerifyConfig)
def verify(config: WeightsVerifyConfig, terminal: Terminal) -> list[dict[str, Any]]:
    """Compare files on this disk with their SHA-256; exit with 1 when one has changed.

    The digest is pinned in our list, given by the hub, or recorded at the first download.
    """
    from dino_cli.tasks.weights import verify_weights

    records = verify_weights(config, terminal)
    said = {"pinned": "as pinned", "hub": "as on the hub", "recorded": "as when downloaded"}
    rows = [
        [r["name"], said.get(r["by"], "recorded now") if r["ok"] else "CHANGED", r["path"]]
        for r in records
    ]
    bad = [r for r in records if not r["ok"]]
    if bad:
        name, path = bad[0]["name"], bad[0]["path"]
        raise TaskError(
            f"{len(bad)} of {len(records)} files have changed since they were published, as {path}",
            f"fetch it again: dino weights remove {name}, then dino weights download {name}",
        )
    terminal.table("", ["name", "SHA-256", "file"], rows)
    return records


@command(weights, "remove", WeightsRemoveConfig)
def remove(config: WeightsRemoveConfig, terminal: Terminal) -> list[dict[str, Any]]:
    """Delete downloaded weights from the caches, which other programs share.

    Example: dino weights remove dino_vitb8
    """
    from dino_cli.tasks.weights import remove_weights

    records = remove_weights(config)
    for record in records:
        terminal.line(f"removed {record['path']} ({record['bytes'] / 1e6:.1f} MB)")
    return records


def _head(options: dict[str, Any] | None) -> str:
    if options is None:
        return ""
    norm = ", batch norm" if options["use_bn_in_head"] else ""
    return (
        f"{options['out_dim']} prototypes, {options['head_hidden']} wide, bottleneck "
        f"{options['head_bottleneck']}{norm}; goes on by `dino train --init-from`"
    )


def _told(told: dict[str, Any]) -> dict[str, str]:
    """What `inspect` found, as lines for people; empty where there is nothing to say."""
    a = told["architecture"] or {}
    fits = "yes" if told["fits"] else "no"
    lines = {
        "file": ", ".join(told["files"]),
        "size": f"{told['bytes'] / 1e6:.1f} MB",
        "SHA-256": told["sha256"],
        "layout": told["layout"],
        "networks": ", ".join(told["networks"]),
        "head": _head(told["head"]),
        "beside": ", ".join(told["beside"]),
        "tensors": f"{told['tensors']}, {told['parameters'] / 1e6:.1f} M parameters",
        "precision": ", ".join(f"{count} {dtype}" for dtype, count in told["dtypes"].items()),
        "NaN, infinite": _names(told["not_finite"]) or "none",
    }
    if a.get("kind") == "vit":
        rows, columns = a["grid"]
        lines |= {
            "architecture": f"vision transformer, width {a['width']}, depth {a['depth']},"
            f" {a['heads']} heads{'' if told['heads_known'] else ' (as if 64 wide: --heads)'}",
            "patch": f"{a['patch_size']} px, {a['in_chans']} channels",
            "positions": f"{rows}x{columns}, for {rows * a['patch_size']}x"
            f"{columns * a['patch_size']} px; resampled by {a['positions']!r}",
            "extras": ", ".join(
                text
                for text, there in (
                    (f"{a['registers']} registers", a["registers"]),
                    ("layer scale", a["layer_scale"]),
                    ("SwiGLU", a["swiglu"]),
                    ("convolutional stem", a["conv_stem"]),
                    (f"LayerNorm eps {a['eps']:g}", a["eps"] != 1e-6),
                )
                if there
            ),
        }
    elif a:
        arguments = ", ".join(f"{key} {value}" for key, value in a["arguments"].items())
        lines["architecture"] = f"timm's {a['name']}" + (f" ({arguments})" if arguments else "")
    return lines | {
        "--arch": told["arch"] or "",
        "fits": fits if a else "no: the architecture cannot be told",
        "missing": _names(told["missing"]),
        "unexpected": _names(told["unexpected"]),
        "misshapen": _names(told["misshapen"]),
        "reason": told["reason"] or "",
        "looks like": told["looks_like"] or "",
    }


def _names(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return f"{len(names)}: {', '.join(names[:SHOWN])}{more}" if names else ""


def _megabytes(record: dict[str, Any]) -> str:
    if record["bytes"]:
        return f"{record['bytes'] / 1e6:.0f}"
    return f"{record['parameters'] * 4:.0f}" if record["parameters"] else ""


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}"

"""Loading weights: time and memory of a random ViT-B from each layout, and its largest difference.

    python tests/benchmarks/weights.py FOLDER

FOLDER (made if missing, about 2.5 GB) keeps the files. Each is loaded in a process of its own; the
memory is the peak above what the imports took, as a multiple of the file.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from dino_cli.config.shared import Preprocessing
from dino_cli.core.network.architecture import VitArchitecture
from dino_cli.core.network.backbone import Backbone
from dino_cli.core.network.vit import build_vit
from dino_cli.store.export.files import write_huggingface
from dino_cli.store.weights.empty import filled_network
from dino_cli.store.weights.load import Weights, load

BASE = VitArchitecture(width=768, depth=12, heads=12, patch_size=16, grid=(14, 14))
LAYOUTS = {
    "reference .pth": "reference.pth",
    "reference full checkpoint": "full.pth",
    "timm .safetensors": "timm.safetensors",
    "timm .safetensors, half": "half.safetensors",
    "Hugging Face folder": "huggingface",
    "Hugging Face .bin": "bin",
    "Hugging Face sharded": "sharded",
}


def make(folder: Path) -> None:
    """The same random weights in every layout."""
    torch.manual_seed(0)
    tensors = {n: torch.randn_like(t) * 0.02 for n, t in build_vit(BASE).state_dict().items()}
    for name in ("huggingface", "bin", "sharded"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    torch.save(tensors, folder / "reference.pth")
    student = {f"module.backbone.{name}": t.clone() for name, t in tensors.items()}
    teacher = {f"backbone.{name}": t for name, t in tensors.items()}
    content = {"student": student, "teacher": teacher, "args": argparse.Namespace(arch="vit_base")}
    torch.save(content, folder / "full.pth")
    save_file(tensors, folder / "timm.safetensors")
    save_file({n: t.half() for n, t in tensors.items()}, folder / "half.safetensors")
    weights = Weights(
        architecture=BASE,
        tensors=tensors,
        name="random",
        source="",
        sha256="",
        preprocessing=Preprocessing(),
        attention_size=480,
    )
    write_huggingface(weights, folder / "huggingface", half=False)
    named = load_file(folder / "huggingface" / "model.safetensors")
    config = (folder / "huggingface" / "config.json").read_text()
    for name in ("bin", "sharded"):
        (folder / name / "config.json").write_text(config)
    torch.save(named, folder / "bin" / "pytorch_model.bin")
    where = {name: f"model-{1 + i % 2}.safetensors" for i, name in enumerate(named)}
    for file in set(where.values()):
        held = {name: t for name, t in named.items() if where[name] == file}
        save_file(held, folder / "sharded" / file)
    index = folder / "sharded" / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": where}))


def measure(path: Path) -> None:
    """One line of JSON about one layout."""
    pages = Path("/proc/self/statm").read_text().split()[1]
    before, cpu, wall = int(pages) * resource.getpagesize(), time.process_time(), time.monotonic()
    weights = load(model="", weights=path)
    net = filled_network(weights.architecture, weights.tensors)
    seconds = time.process_time() - cpu, time.monotonic() - wall
    # Not getrusage: its peak is inherited from the process that started this one.
    status = Path("/proc/self/status").read_text()
    peak = int(status.split("VmHWM:")[1].split()[0]) * 1024 - before
    files = path.rglob("model*.*") if path.is_dir() else [path]
    size = sum(f.stat().st_size for f in files if f.suffix != ".json")
    size = size or (path / "pytorch_model.bin").stat().st_size
    x = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    features = Backbone(net).features(x)[0].tolist()
    told = {"size": size, "peak": peak / size, "cpu": seconds[0], "wall": seconds[1]}
    sys.stdout.write(json.dumps({**told, "features": features}) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--one", type=Path)
    given = parser.parse_args()
    if given.one is not None:
        measure(given.one)
        return
    make(given.folder)
    first = None
    sys.stdout.write("layout\tMB\tpeak / file\tcpu s\twall s\tlargest difference\n")
    for name, file in LAYOUTS.items():
        command = [sys.executable, __file__, str(given.folder), "--one", str(given.folder / file)]
        found = subprocess.run(command, check=True, capture_output=True, text=True)
        told = json.loads(found.stdout)
        features = torch.tensor(told["features"])
        first = features if first is None else first
        off = float((features - first).abs().max())
        sys.stdout.write(
            f"{name}\t{told['size'] / 1e6:.0f}\t{told['peak']:.2f}\t{told['cpu']:.2f}"
            f"\t{told['wall']:.2f}\t{off:.1g}\n"
        )


if __name__ == "__main__":
    main()

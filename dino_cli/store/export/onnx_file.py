"""ONNX files: one graph, any batch and image size, checked against what torch computes."""

import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim

from dino_cli.core.network.tracing import Exportable
from dino_cli.errors import TaskError

__all__ = ["check_onnx", "require_onnx", "write_onnx"]

TOLERANCE = 1e-4  # largest difference of a feature between torch and the file
HALF_TOLERANCE = 5e-2  # the same for weights rounded to half precision, relative to the largest
LARGEST = 2_000_000_000  # bytes of a protocol buffer
SMALL = 1024  # values of a tensor that --half leaves alone: it would save nothing


def require_onnx() -> None:
    """Raises `TaskError` when the optional packages are not installed."""
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise TaskError(
            f"ONNX export needs packages that are not installed ({error.name})",
            "pip install 'dino-cli[onnx]'",
        ) from None


def write_onnx(
    module: Exportable,
    path: Path,
    *,
    half: bool,
    patch_size: int,
    native: int,
    channels: int,
    metadata: Mapping[str, str],
) -> bool:
    """Write it as float32 `images` (B, C, height, width) → `features`, and `attention`.

    patch_size: sides of images are its multiples; native: side in pixels for networks that take one
    only. half: large weights are stored in half precision and computed with in single. Returns
    whether every image size works. Raises `TaskError` when torch cannot export the network.
    """
    size = sum(p.numel() for p in module.parameters()) * (2 if half else 4)
    if size > LARGEST:
        raise TaskError(
            f"the weights of {size / 1e9:.1f} GB do not fit one ONNX file, which holds 2 GB",
            "export a Hugging Face folder or timm's .safetensors",
        )
    names = ["features", *(["attention"] if module.attention else [])]
    batch, rows, columns = Dim("batch"), Dim("rows"), Dim("columns")
    any_size = torch.zeros(2, channels, patch_size * 5, patch_size * 7)
    one_size = torch.zeros(2, channels, native, native)
    tries: list[tuple[Tensor, dict[int, Any]]] = [
        (any_size, {0: batch, 2: patch_size * rows, 3: patch_size * columns}),
        (one_size, {0: batch}),
    ]
    problem = ""
    for example, dynamic in tries:
        try:
            program = _exported(module, example, names, dynamic)
        except Exception as error:  # whatever the tracer meets in other people's networks
            problem = " ".join(str(error).split())[:120]
            continue
        model = program.model_proto
        if half:
            _halve(model)
        _annotate(model, metadata)
        path.write_bytes(model.SerializeToString())
        return len(dynamic) == 3
    raise TaskError(
        f"torch cannot export this network to ONNX ({problem})", "export timm's .safetensors"
    )


def check_onnx(
    module: Exportable,
    path: Path,
    sizes: Sequence[tuple[int, int]],
    *,
    half: bool,
    channels: int,
) -> float:
    """Run the file in onnxruntime on random images; the largest difference from torch's outputs.

    sizes: height and width in pixels, one of each batch. Raises `TaskError` when it is too large.
    """
    import onnxruntime

    with _quiet():
        # Not by its name, which need not be UTF-8.
        content, providers = path.read_bytes(), ["CPUExecutionProvider"]
        session = onnxruntime.InferenceSession(content, providers=providers)
    generator = torch.Generator().manual_seed(0)
    largest = 0.0
    for count, size in enumerate(sizes, 1):
        images = torch.randn(count, channels, *size, generator=generator)
        with torch.inference_mode():
            given = module(images)
        wanted = given if isinstance(given, tuple) else (given,)
        found = session.run(None, {"images": images.numpy()})
        for name, theirs, ours in zip(("features", "attention"), found, wanted, strict=False):
            off = float((torch.from_numpy(theirs) - ours).abs().max())
            allowed = HALF_TOLERANCE * max(1.0, float(ours.abs().max())) if half else TOLERANCE
            if not off <= allowed:
                raise TaskError(
                    f"the ONNX file's {name} at {size[0]}x{size[1]} are off by {off:.2g}",
                    "export timm's .safetensors, and report this network",
                )
            largest = max(largest, off)
    return largest


def _exported(
    module: nn.Module, example: Tensor, names: list[str], dynamic: Mapping[int, Any]
) -> Any:
    with _quiet(), torch.no_grad():
        return torch.onnx.export(
            module,
            (example,),
            dynamo=True,
            verbose=False,
            input_names=["images"],
            output_names=names,
            dynamic_shapes={"images": dict(dynamic)},
        )


def _halve(model: Any) -> None:
    """Store large float32 weights as float16 and cast them where they are used.

    A runtime does the casts once, when it loads the file: computing stays single precision.
    """
    import numpy as np
    from onnx import TensorProto, helper, numpy_helper

    casts = []
    for weight in model.graph.initializer:
        values = numpy_helper.to_array(weight)
        if weight.data_type != TensorProto.FLOAT or values.size < SMALL:
            continue
        name = weight.name
        weight.CopyFrom(numpy_helper.from_array(values.astype(np.float16), f"{name}_half"))
        casts.append(helper.make_node("Cast", [f"{name}_half"], [name], to=TensorProto.FLOAT))
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def _annotate(model: Any, metadata: Mapping[str, str]) -> None:
    import onnx

    model.producer_name = "dino-cli"
    for node in model.graph.node:  # stack traces of this machine, half of a small file
        del node.metadata_props[:]
        node.doc_string = ""
    del model.graph.metadata_props[:]
    for value in (*model.graph.value_info, *model.graph.input, *model.graph.output):
        del value.metadata_props[:]
    for weight in model.graph.initializer:
        del weight.metadata_props[:]
    onnx.helper.set_model_props(model, {key: str(value) for key, value in metadata.items()})


@contextmanager
def _quiet() -> Iterator[None]:
    """The exporter warns and logs about its own internals."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)

"""A stand-in for a CUDA device: the CPU, with a mark on each tensor that would lie on a GPU.

`DINO_SIMULATED_CUDA=1 pytest -m gpu` runs the tests of GPUs on it where there is none. The numbers
are the CPU's, so what it shows is what the code does on CUDA alone: tensors of two devices in one
operation, a GPU's tensor handed to NumPy, another way for CUDA that ends elsewhere than the CPU's.
Kernels, memory, streams and speed it does not know. It holds in threads, not in other processes.
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
import torch.utils.data
from cuda_graph_recorder import Recorder
from torch import Tensor
from torch.overrides import TorchFunctionMode

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)
MARK = "_on_cuda"
# Devices may differ.
ACROSS = (
    "copy_", "_foreach_copy_", "__setitem__", "__getitem__", "_has_compatible_shallow_copy_type",
)  # fmt: skip


def on_cuda(tensor: Tensor) -> bool:
    return MARK in tensor.__dict__


def tensors_in(value: object) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for part in value:
            yield from tensors_in(part)
    elif isinstance(value, dict):
        yield from tensors_in(list(value.values()))


def mark(value: Any, on: bool) -> Any:
    for tensor in tensors_in(value):
        if on:
            tensor.__dict__[MARK] = True
        else:
            tensor.__dict__.pop(MARK, None)
    return value


def names_cuda(device: object) -> bool:
    return isinstance(device, int) or torch.device(device).type == "cuda"  # type: ignore[arg-type]


class SimulatedCuda(TorchFunctionMode):
    """What Python calls of torch, as if marked tensors lay on a GPU."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        name = getattr(func, "__name__", "")
        if isinstance(func, torch._ops.OpOverload):  # of a recorded graph
            return func(*args, **kwargs)
        if name == "__get__" and (told := self.told(func.__self__, args[0])) is not None:
            return told
        if name == "__set__":
            return self.assign(func, *args)
        if name in MOVES and isinstance(args[0], Tensor):
            return MOVES[name](*args, **kwargs)
        if name in ("numpy", "__array__") and on_cuda(args[0]):
            raise TypeError("can't convert cuda:0 device type tensor to numpy")
        return self.compute(func, name, args, kwargs)

    def told(self, attribute: object, tensor: Tensor) -> object:
        if attribute is Tensor.device:
            return CUDA if on_cuda(tensor) else None
        if attribute is Tensor.is_cuda:
            return on_cuda(tensor)
        return not on_cuda(tensor) if attribute is Tensor.is_cpu else None

    def assign(self, func: Any, tensor: Tensor, value: object) -> None:
        func(tensor, value)
        if isinstance(value, Tensor) and func.__self__ is Tensor.data:
            mark(tensor, on_cuda(value))
        if isinstance(value, Tensor) and func.__self__ is Tensor.grad:
            assert on_cuda(tensor) == on_cuda(value), "a gradient on another device"

    def compute(self, func: Any, name: str, args: Any, kwargs: dict[str, Any]) -> Any:
        given = list(tensors_in([args, kwargs]))
        on = any(on_cuda(tensor) for tensor in given)
        strangers = [tuple(t.shape) for t in given if t.dim() and not on_cuda(t)]
        if on and strangers and name not in ACROSS:
            raise RuntimeError(f"{name}: tensors on cuda:0, and on the CPU {strangers}")
        if name in ACROSS:
            on = on_cuda(next(tensors_in(args)))
            if name == "__getitem__" and not on and any(on_cuda(tensor) for tensor in given):
                raise RuntimeError("a tensor on the CPU indexed by one on cuda:0")
        if kwargs.get("device") is not None:
            on = names_cuda(kwargs["device"])
            kwargs["device"] = CPU
        result = func(*args, **kwargs)
        known = {id(tensor) for tensor in given}
        for tensor in tensors_in(result):
            if id(tensor) not in known:
                mark(tensor, on)
        return result


def moved(tensor: Tensor, on: bool) -> Tensor:
    """Itself, or a copy that carries gradients back."""
    return tensor if on_cuda(tensor) == on else mark(tensor.clone(), on)


def to(tensor: Tensor, *args: Any, device: Any = None, **kwargs: Any) -> Tensor:
    on = on_cuda(tensor) if device is None else names_cuda(device)
    changes = {k: v for k, v in kwargs.items() if k != "non_blocking" and v is not None}
    for value in args:
        if isinstance(value, torch.dtype):
            changes["dtype"] = value
        elif isinstance(value, Tensor):
            on, changes["dtype"] = on_cuda(value), value.dtype
        elif isinstance(value, str | torch.device) or (value is args[0] and type(value) is int):
            on = names_cuda(value)
    changed = Tensor.to(tensor, **changes) if changes else tensor
    return moved(tensor, on) if changed is tensor else mark(changed, on)


MOVES: dict[str, Callable[..., Any]] = {
    "to": to,
    "cuda": lambda tensor, *_, **__: moved(tensor, True),
    "cpu": lambda tensor, **_: moved(tensor, False),
    "pin_memory": lambda tensor, *_: tensor,
    "is_pinned": lambda tensor, *_: not on_cuda(tensor),
}


class Stream:
    """Also an event: nothing is ever waited for."""

    def __init__(self, *_: object, **__: object) -> None:
        self.at = 0.0

    def record(self, *_: object) -> None:
        self.at = time.perf_counter()

    def elapsed_time(self, other: "Stream") -> float:
        return 1000 * (other.at - self.at)

    def query(self) -> bool:
        return True

    def wait_stream(self, other: object) -> None:
        pass

    synchronize = wait = wait_event = record


@contextmanager
def recorded(graph: Recorder, **_: object) -> Iterator[None]:
    with graph:
        yield


def start() -> None:
    """From here on, until the process ends."""
    replaced: dict[str, object] = {
        "is_available": lambda: True,
        "device_count": lambda: 1,
        "current_device": lambda: 0,
        "set_device": lambda device: None,
        "synchronize": lambda device=None: None,
        "get_device_capability": lambda device=None: (9, 0),
        "get_device_name": lambda device=None: "NVIDIA, simulated",
        "memory_allocated": lambda device=None: 0,
        "max_memory_allocated": lambda device=None: 2**20,
        "reset_peak_memory_stats": lambda device=None: None,
        "Stream": Stream,
        "Event": Stream,
        "current_stream": Stream,
        "stream": lambda stream: nullcontext(),
        "CUDAGraph": Recorder,
        "graph": recorded,
    }
    for name, value in replaced.items():
        setattr(torch.cuda, name, value)
    _on_the_cpu(torch.autocast, "device_type")
    _on_the_cpu(torch.amp.GradScaler, "device")
    _without(torch.utils.data.DataLoader, "pin_memory")
    optimizer = torch.optim.Optimizer
    for name in dir(optimizer):
        if name.endswith("graph_capture_health_check"):
            setattr(optimizer, name, lambda self: None)
    _group_by_marks(optimizer)
    mode = SimulatedCuda()
    mode.__enter__()
    run = threading.Thread.run

    def run_simulated(self: threading.Thread) -> None:
        with SimulatedCuda():
            run(self)

    threading.Thread.run = run_simulated  # type: ignore[method-assign]


def _on_the_cpu(kind: Any, argument: str) -> None:
    """An object of this kind that is asked for CUDA is made for the CPU."""
    init = kind.__init__

    def made(self: Any, device: Any = "cuda", *args: Any, **kwargs: Any) -> None:
        device = kwargs.pop(argument, device)
        init(self, "cpu" if names_cuda(device) else device, *args, **kwargs)

    kind.__init__ = made


def _without(kind: Any, argument: str) -> None:
    init = kind.__init__

    def made(self: Any, *args: Any, **kwargs: Any) -> None:
        kwargs.pop(argument, None)
        init(self, *args, **kwargs)

    kind.__init__ = made


def _group_by_marks(optimizer: Any) -> None:
    """Optimizers ask torch's own code for the device of their tensors, which knows no marks."""
    grouped = optimizer._group_tensors_by_device_and_dtype

    def group(lists: Any, with_indices: bool = False) -> Any:
        return {
            (CUDA if any(map(on_cuda, tensors_in(found[0]))) else device, dtype): found
            for (device, dtype), found in grouped(lists, with_indices).items()
        }

    optimizer._group_tensors_by_device_and_dtype = staticmethod(group)

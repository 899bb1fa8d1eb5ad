"""A stand-in for a CUDA device: the CPU, with a mark on each tensor that would lie on a GPU.

`DINO_SIMULATED_CUDA=1 pytest -m gpu` runs the tests of GPUs on it where there is none. The numbers
are the CPU's, so what it shows is what the code does on CUDA alone: tensors of two devices in one
operation, a GPU's tensor handed to NumPy, another way for CUDA that ends elsewhere than the CPU's.
Kernels, memory, streams and speed it does not know. It holds in threads; processes that have this
folder in PYTHONPATH start it by sitecustomize.py, each with as many devices as the variable says,
and gloo in place of NCCL.
"""

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
import torch.utils.data
from cuda_graph_recorder import Recorder
from simulated_batch_norm import KERNELS
from torch import Tensor
from torch.overrides import TorchFunctionMode

CPU = torch.device("cpu")
MARK = "_on_cuda"  # which one
current = 0  # the device that `set_device` chose
recording = False  # a graph
# Devices may differ.
ACROSS = (
    "copy_", "_foreach_copy_", "__setitem__", "__getitem__", "_has_compatible_shallow_copy_type",
)  # fmt: skip


def on_cuda(tensor: Tensor) -> bool:
    return MARK in tensor.__dict__


def device_of(tensor: Tensor) -> torch.device:
    return torch.device("cuda", tensor.__dict__[MARK]) if on_cuda(tensor) else CPU


def tensors_in(value: object) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for part in value:
            yield from tensors_in(part)
    elif isinstance(value, dict):
        yield from tensors_in(list(value.values()))


def mark(value: Any, on: int | None) -> Any:
    for tensor in tensors_in(value):
        if on is None:
            tensor.__dict__.pop(MARK, None)
        else:
            tensor.__dict__[MARK] = on
    return value


def index_of(device: object) -> int | None:
    """Which CUDA device that is, none for another."""
    if isinstance(device, int):
        return device
    device = torch.device(device)  # type: ignore[call-overload]
    if device.type != "cuda":
        return None
    return current if device.index is None else device.index


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
            return device_of(tensor) if on_cuda(tensor) else None
        if attribute is Tensor.is_cuda:
            return on_cuda(tensor)
        return not on_cuda(tensor) if attribute is Tensor.is_cpu else None

    def assign(self, func: Any, tensor: Tensor, value: object) -> None:
        func(tensor, value)
        if isinstance(value, Tensor) and func.__self__ is Tensor.data:
            mark(tensor, index_of(device_of(value)))
        if isinstance(value, Tensor) and func.__self__ is Tensor.grad:
            assert device_of(tensor) == device_of(value), "a gradient on another device"

    def compute(self, func: Any, name: str, args: Any, kwargs: dict[str, Any]) -> Any:
        given = list(tensors_in([args, kwargs]))
        devices = {device_of(tensor) for tensor in given if tensor.dim() or on_cuda(tensor)}
        on = next((index_of(device) for device in devices if device != CPU), None)
        if len(devices) > 1 and name not in ACROSS:
            told = ", ".join(f"{tuple(t.shape)} on {device_of(t)}" for t in given)
            raise RuntimeError(f"{name}: tensors on several devices, {told}")
        if name in ACROSS:
            target = device_of(next(tensors_in(args)))
            if name == "__getitem__" and target == CPU and on is not None:
                raise RuntimeError(f"a tensor on the CPU indexed by one on cuda:{on}")
            on = index_of(target)
        if kwargs.get("device") is not None:
            on = index_of(kwargs["device"])
            kwargs["device"] = CPU
            if recording and name == "tensor":
                raise RuntimeError("numbers from the host while a graph is recorded")
        result = func(*args, **kwargs)
        known = {id(tensor) for tensor in given}
        for tensor in tensors_in(result):
            if id(tensor) not in known:
                mark(tensor, on)
        return result


def moved(tensor: Tensor, on: int | None) -> Tensor:
    """Itself, or a copy that carries gradients back."""
    if index_of(device_of(tensor)) == on:
        return tensor
    if recording:
        raise RuntimeError("a copy between host and device while a graph is recorded")
    return mark(tensor.clone(), on)


def to(tensor: Tensor, *args: Any, device: Any = None, **kwargs: Any) -> Tensor:
    on = index_of(device_of(tensor) if device is None else device)
    changes = {k: v for k, v in kwargs.items() if k != "non_blocking" and v is not None}
    for value in args:
        if isinstance(value, torch.dtype):
            changes["dtype"] = value
        elif isinstance(value, Tensor):
            on, changes["dtype"] = index_of(device_of(value)), value.dtype
        elif isinstance(value, str | torch.device) or (value is args[0] and type(value) is int):
            on = index_of(value)
    changed = Tensor.to(tensor, **changes) if changes else tensor
    return moved(tensor, on) if changed is tensor else mark(changed, on)


MOVES: dict[str, Callable[..., Any]] = {
    "to": to,
    "cuda": lambda tensor, device="cuda", **_: moved(tensor, index_of(device)),
    "cpu": lambda tensor, **_: moved(tensor, None),
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


class Graph(Recorder):
    """Streams, and so graphs, are of the current device; what another one does is not recorded."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for tensor in tensors_in([args, kwargs or {}]):
            if on_cuda(tensor) and index_of(device_of(tensor)) != current:
                raise RuntimeError(f"cuda:{current} records what {device_of(tensor)} does")
        return super().__torch_dispatch__(func, types, args, kwargs)


@contextmanager
def recorded(graph: Graph, **_: object) -> Iterator[None]:
    global recording
    recording = True
    try:
        with graph:
            yield
    finally:
        recording = False


@contextmanager
def chosen(device: object) -> Iterator[None]:
    """`torch.cuda.device`."""
    before = current
    set_device(device)
    try:
        yield
    finally:
        set_device(before)


def start(devices: int) -> None:
    """From here on, until the process ends."""
    replaced: dict[str, object] = {
        "is_available": lambda: True,
        "device_count": lambda: devices,
        "current_device": lambda: current,
        "set_device": set_device,
        "device": chosen,
        "synchronize": lambda device=None: None,
        "get_device_capability": lambda device=None: (9, 0),
        "get_device_name": lambda device=None: "NVIDIA, simulated",
        "memory_allocated": lambda device=None: 0,
        "max_memory_allocated": lambda device=None: 2**20,
        "reset_peak_memory_stats": lambda device=None: None,
        "Stream": Stream,
        "Event": Stream,
        "current_stream": Stream,
        "is_current_stream_capturing": lambda: False,
        "stream": lambda stream: nullcontext(),
        "CUDAGraph": Graph,
        "graph": recorded,
    }
    for name, value in replaced.items():
        setattr(torch.cuda, name, value)
    for function in KERNELS:
        setattr(torch, function.__name__, function)
    _on_the_cpu(torch.autocast, "device_type")
    _on_the_cpu(torch.amp.GradScaler, "device")
    _pin_by_hand(torch.utils.data.DataLoader)
    optimizer = torch.optim.Optimizer
    for name in dir(optimizer):
        if name.endswith("graph_capture_health_check"):
            setattr(optimizer, name, lambda self: None)
    _group_by_marks(optimizer)
    _gloo_for_nccl()
    mode = SimulatedCuda()
    mode.__enter__()
    run = threading.Thread.run

    def run_simulated(self: threading.Thread) -> None:
        with SimulatedCuda():
            run(self)

    threading.Thread.run = run_simulated  # type: ignore[method-assign]


def set_device(device: object) -> None:
    global current
    index = device if isinstance(device, int) else torch.device(device).index  # type: ignore[call-overload]
    if index is None:
        raise ValueError(f"expected a device with an index, got {device}")
    current = index


def _gloo_for_nccl() -> None:
    """NCCL takes tensors of this process's GPU only; gloo all of them."""
    distributed = torch.distributed
    begin = distributed.init_process_group
    nccl = False

    def init_process_group(backend: str, *, device_id: object = None, **given: Any) -> None:
        nonlocal nccl
        nccl = backend == "nccl"
        if nccl:
            assert index_of(device_id) == current == int(os.environ["LOCAL_RANK"])
        begin("gloo", **given)

    def checked(collective: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **given: Any) -> Any:
            caller = sys._getframe(1).f_globals["__name__"]
            if nccl and caller.startswith("dino_cli"):  # torch's own may come from C++
                for tensor in tensors_in([args, given]):
                    if index_of(device_of(tensor)) != current:
                        raise RuntimeError(f"{collective.__name__} of {device_of(tensor)}")
            return collective(*args, **given)

        return call

    distributed.init_process_group = init_process_group
    for name in ("all_reduce", "broadcast", "all_gather", "all_gather_into_tensor"):
        setattr(distributed, name, checked(getattr(distributed, name)))


def _on_the_cpu(kind: Any, argument: str) -> None:
    """An object of this kind that is asked for CUDA is made for the CPU."""
    init = kind.__init__

    def made(self: Any, device: Any = "cuda", *args: Any, **kwargs: Any) -> None:
        device = kwargs.pop(argument, device)
        init(self, "cpu" if index_of(device) is not None else device, *args, **kwargs)

    kind.__init__ = made


def _pin_by_hand(kind: Any) -> None:
    """Pinned batches, whose tuples come as lists; not by torch's thread, which asks for a GPU."""
    init = kind.__init__

    def made(self: Any, *args: Any, pin_memory: bool = False, **kwargs: Any) -> None:
        init(self, *args, **kwargs)
        if pin_memory:
            self.collate_fn = partial(_pinned, self.collate_fn)

    kind.__init__ = made


def _pinned(collate: Callable[[Any], Any], items: Any) -> Any:
    return torch.utils.data._utils.pin_memory.pin_memory(collate(items))


def _group_by_marks(optimizer: Any) -> None:
    """Optimizers ask torch's own code for the device of their tensors, which knows no marks."""
    grouped = optimizer._group_tensors_by_device_and_dtype

    def group(lists: Any, with_indices: bool = False) -> Any:
        return {
            (next(map(device_of, tensors_in(found[0])), device), dtype): found
            for (device, dtype), found in grouped(lists, with_indices).items()
        }

    optimizer._group_tensors_by_device_and_dtype = staticmethod(group)

"""Stands in for `torch.cuda.CUDAGraph` where there is no GPU."""

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

aten = torch.ops.aten
WAITING = (
    aten._local_scalar_dense, aten.bincount, aten.equal, aten.masked_select, aten.nonzero,
    aten._unique2, aten._linalg_svd, aten._linalg_eigh,
)  # fmt: skip

INDEXING = (aten.index, aten.index_put, aten.index_put_)


class Recorder(TorchDispatchMode):
    """A graph: operations in order. Views of memory need not be made again, what writes does.

    As CUDA's, it refuses operations whose result the host must know.
    """

    def __init__(self):
        super().__init__()
        self.done = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        masks = any(
            isinstance(index, torch.Tensor) and index.dtype == torch.bool
            for index in (args[1] if function.overloadpacket in INDEXING else ())
        )
        if masks or function.overloadpacket in WAITING:
            raise RuntimeError(f"{function} while a graph is recorded: the host would wait for it")
        result = function(*args, **(kwargs or {}))
        self.done.append((function, args, kwargs or {}, result))
        return result

    def replay(self):
        with torch.no_grad():
            for function, args, kwargs, result in self.done:
                returns = function._schema.returns
                if any(r.alias_info is not None and not r.alias_info.is_write for r in returns):
                    continue
                again = function(*args, **kwargs)
                if not function._schema.is_mutable:
                    for old, new in zip(tree_leaves(result), tree_leaves(again), strict=True):
                        if isinstance(old, torch.Tensor):
                            old.copy_(new)

"""Stands in for `torch.cuda.CUDAGraph` where there is no GPU."""

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Recorder(TorchDispatchMode):
    """A graph: operations in order. Views of memory need not be made again, what writes does."""

    def __init__(self):
        super().__init__()
        self.done = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
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

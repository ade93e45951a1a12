"""Two devices where there is one: tensors are told where they lie, and what mixes them fails, as it would on two GPUs."""

from typing import Any

import torch
from accelerate.hooks import ModelHook, add_hook_to_module
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.weak import WeakTensorKeyDictionary

HERE, THERE = torch.device("cpu"), torch.device("cuda", 1)


class Places(TorchFunctionMode):
    """While it is active, a tensor's ``device`` is where it was put or made, and functions take tensors of one device only.

    Scalars may lie anywhere, as may what is indexed with, if it is on the CPU.
    """

    def __init__(self) -> None:
        super().__init__()
        self._at = WeakTensorKeyDictionary()

    def put(self, module: nn.Module, device: torch.device) -> None:
        """As accelerate's ``device_map`` does: the weights lie on ``device``, and inputs are brought there."""
        for tensor in (*module.parameters(), *module.buffers()):
            self._at[tensor] = device
        for part in (module, *(part for part in module.modules() if next(part.parameters(), None) is not None)):
            add_hook_to_module(part, _Bring(device))

    def of(self, tensor: Tensor) -> torch.device:
        return self._at.get(tensor, HERE)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name, kwargs = func.__name__, dict(kwargs or {})
        if name == "__get__" and func == Tensor.device.__get__:
            return self.of(args[0])
        with torch._C.DisableTorchFunction():
            if func is Tensor.to:
                return self._moved(args, kwargs)
            wanted = kwargs.get("device")
            if name == "_has_compatible_shallow_copy_type":  # nn.Module.to asks, before it moves a parameter
                return func(*args)
            if func == Tensor.data.__set__:  # nn.Module.to moves a parameter
                self._at[args[0]] = self.of(args[1])
            result = func(*args, **(kwargs | {"device": HERE} if wanted is not None else kwargs))
            if name == "grad":  # autograd follows tensors from device to device
                places = [self.of(tensor) for tensor in args[1]]
            else:
                places = [torch.device(wanted) if wanted is not None else self._common(name, args, kwargs)] * len(
                    tree_leaves(result)
                )
            for made, place in zip(tree_leaves(result), places, strict=True):
                if isinstance(made, Tensor):
                    self._at[made] = place
            return result

    def _moved(self, args: Any, kwargs: Any) -> Tensor:
        source, *to = args
        targets = [self.of(part) if isinstance(part, Tensor) else torch.device(part) for part in to if not _is_dtype(part)]
        moved = source.to(*(HERE if not _is_dtype(part) else part for part in to), **kwargs)
        target = targets[0] if targets else self.of(source)
        if moved is source and target != self.of(source):
            moved = source.clone()
        self._at[moved] = target
        return moved

    def _common(self, name: str, args: Any, kwargs: Any) -> torch.device:
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor) and leaf.dim()]
        places = {self.of(tensor) for tensor in tensors}
        if name in ("__getitem__", "__setitem__"):
            places = places - {HERE} or places
        if len(places) > 1:
            raise RuntimeError(f"{name} is given tensors on {sorted(map(str, places))}")
        return places.pop() if places else HERE


class _Bring(ModelHook):
    def __init__(self, device: torch.device) -> None:
        self.execution_device = device

    def pre_forward(self, module: nn.Module, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
        return tree_map(self._brought, (args, kwargs))

    def _brought(self, value: Any) -> Any:
        return value.to(self.execution_device) if isinstance(value, Tensor) else value


def _is_dtype(value: Any) -> bool:
    return isinstance(value, torch.dtype | bool)

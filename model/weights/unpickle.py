"""Tensors and plain data out of a pickle, without running any of its code.

mmengine's training files hold a log of losses as objects of its own beside the weights. What they are made of is
replaced by objects that do nothing; a file that names anything else is refused, with the command that strips it.
"""

import pickle
from collections import Counter, OrderedDict
from pathlib import Path
from typing import Any

import torch

SAFE = {
    ("collections", "OrderedDict"): OrderedDict,
    ("collections", "Counter"): Counter,
    ("torch._utils", "_rebuild_tensor_v2"): torch._utils._rebuild_tensor_v2,
    ("torch._utils", "_rebuild_parameter"): torch._utils._rebuild_parameter,
    ("torch", "Size"): torch.Size,
}
# Logs and numbers of these packages, and how pickles of old protocols write bytes and the methods of a class.
LEFT_OUT = ("mmengine", "mmcv", "mmdet", "numpy")
LEFT_OUT_NAMES = (("builtins", "getattr"), ("__builtin__", "getattr"), ("_codecs", "encode"))


class LeftOut:
    """Stands for an object that is not read: takes any arguments and state, and does nothing with them."""

    def __init__(self, *arguments: Any, **named: Any):
        pass

    def __setstate__(self, state: Any) -> None:
        pass

    def __call__(self, *arguments: Any, **named: Any) -> "LeftOut":
        return LeftOut()

    def append(self, item: Any) -> None:
        pass

    def extend(self, items: Any) -> None:
        pass

    def __setitem__(self, key: Any, value: Any) -> None:
        pass


class Refused(pickle.UnpicklingError):
    """A pickle that names code."""


class Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in SAFE:
            return SAFE[module, name]
        # torch's own reader makes types of storages before it asks here; old files ask for the class.
        if module == "torch" and name.endswith("Storage") and isinstance(getattr(torch, name, None), type):
            return getattr(torch, name)
        if module.split(".")[0] in LEFT_OUT or (module, name) in LEFT_OUT_NAMES:
            return LeftOut
        raise Refused(f"{module}.{name}")


def load(file: Any, **options: Any) -> Any:
    return Unpickler(file, **options).load()


class Pickle:
    """What torch.load takes for the module pickle."""

    Unpickler = Unpickler
    load = staticmethod(load)


def load_plain(path: Path) -> Any:
    """What torch.load gives of a file, its foreign objects left out."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        pass
    try:
        return torch.load(path, map_location="cpu", weights_only=False, pickle_module=Pickle)
    except Refused as error:
        bare = path.with_name(path.stem + "-bare.pth").name
        keep = "{k: c[k] for k in ('meta', 'state_dict', 'model') if k in c}"
        raise ValueError(
            f"{path}: holds {error}, which is neither a tensor nor plain data, and nothing in a file is run here. If "
            f"you trust it: python -c \"import torch; c = torch.load('{path.name}', weights_only=False); "
            f"torch.save({keep}, '{bare}')\", and give {bare}"
        ) from None

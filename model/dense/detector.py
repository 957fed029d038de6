"""Dense detectors: backbone, pyramid and one head for all its levels, with the methods of `model.api`."""

from functools import partial

import torch
from torch import Tensor

from model.api import Assigned, Detections, Detector, Mean, Outputs, Truth, Want, own
from model.backbones.pixels import convert_pixels
from model.backbones.pyramid import CoarseLevels, pyramid_maps
from model.backbones.torchvision_fpn import build_backbone
from model.dense.atss import AtssHead
from model.dense.config import AtssConfig, DenseConfig, FcosConfig, GflConfig, RetinaNetConfig
from model.dense.fcos import FcosHead
from model.dense.gfl import GflHead
from model.dense.head import DenseHead, Raw, Towers
from model.dense.retinanet import RetinaNetHead

HEADS: dict[type[DenseConfig], type[DenseHead]] = {
    RetinaNetConfig: RetinaNetHead,
    FcosConfig: FcosHead,
    AtssConfig: AtssHead,
    GflConfig: GflHead,
}


class DenseDetector(Detector):
    """The head is that of the configuration's class."""

    def __init__(self, config: DenseConfig, num_classes: int):
        super().__init__()
        self.config, self.num_classes = config, num_classes
        self.strides, self.channels = config.strides, config.fpn_channels
        coarse = partial(CoarseLevels, channels=config.fpn_channels, source=config.coarse_from, relu=config.coarse_relu)
        self.backbone = build_backbone(config, make_coarse=coarse)
        self.head = HEADS[type(config)](config, num_classes, config.fpn_channels, config.strides)
        self.terms = self.head.terms

    def features(self, images_B3HW: Tensor, strides: tuple[int, ...] | None = None) -> tuple[Tensor, ...]:
        """Maps of the pyramid, finest first. Height and width are multiples of 32; with `strides` only those maps."""
        height, width = images_B3HW.shape[-2:]
        if height % 32 or width % 32:
            raise ValueError(f"features: got a canvas of {height} x {width}; pad both sides to multiples of 32")
        strides = self.strides if strides is None else strides
        unknown = sorted(set(strides) - set(self.strides))
        if unknown or not strides:
            raise ValueError(f"features: got strides {strides}; this pyramid has {self.strides}")
        levels = sorted(self.strides.index(stride) for stride in strides)
        maps = pyramid_maps(self.backbone, images_B3HW, set(levels))
        return tuple(maps[level] for level in levels)

    def look(self, images_B3HW: Tensor, sizes_B2: Tensor, want: Want) -> Outputs:
        """The pyramid as far as it is wanted, the towers after `want.tower` convolutions, raw predictions, detections.

        Raw boxes: deltas (RetinaNet, ATSS), distances in pixels (FCOS), logits of bins (GFL).
        """
        if want.rois:
            raise ValueError(f"a detector of {type(self.config).__name__} has no regions; choose a two-stage detector")
        canvas = (images_B3HW.shape[-2], images_B3HW.shape[-1])
        images_B3HW = convert_pixels(images_B3HW, sizes_B2, self.config)
        if want == Want():
            return Outputs(canvas, (None,) * len(self.strides))
        predicts = want.dense or want.found
        if not predicts and want.tower is None:
            maps = iter(self.features(images_B3HW, want.neck))
            return Outputs(canvas, tuple(next(maps) if stride in want.neck else None for stride in self.strides))
        neck = self.features(images_B3HW)
        k = want.tower or 0
        towers = self.head.grow(neck, k)
        out = Outputs(canvas, neck, towers=None if want.tower is None else towers)
        if not predicts:
            return out
        raw = self.head.predict(towers, k)
        out = out._replace(logits=raw.logits, boxes=raw.boxes, quality=raw.quality)
        return out._replace(found=self.head.detect(raw, canvas, sizes_B2)) if want.found else out

    def head_from(self, towers: Towers, k: int) -> Outputs:
        """The rest of both towers after convolution k, of whichever network, and the predictors."""
        raw = self.head.predict(towers, k)
        height, width = towers[0][0].shape[-2:]
        canvas = (height * self.strides[0], width * self.strides[0])
        return Outputs(canvas, (None,) * len(self.strides), towers, raw.logits, raw.boxes, raw.quality)

    def losses(self, out: Outputs, truth: Truth, mean: Mean = own) -> tuple[dict[str, Tensor], Assigned]:
        """The terms of the head, means over the global batch, and what each location was trained to answer."""
        if out.logits is None or out.boxes is None:
            raise ValueError("losses: these outputs hold no predictions; look with Want(dense=True)")
        return self.head.losses(Raw(out.logits, out.boxes, out.quality), truth, out.canvas, mean)

    @torch.no_grad()
    def detect(self, images_B3HW: Tensor, sizes_B2: Tensor) -> Detections:
        """What is in the images: the best `detections_per_image`, each class thinned on its own."""
        found = self.look(images_B3HW, sizes_B2, Want(found=True)).found
        assert found is not None
        return found

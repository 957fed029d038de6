"""What a detector's configuration says of its backbone and pyramid, whichever detector it is."""

from dataclasses import dataclass

from model.backbones.table import Backbone, find_backbone
from model.backbones.timm_body import PREFIX


@dataclass(frozen=True)
class BackboneConfig:
    backbone: str = "resnet50"
    weights: str = "imagenet"  # at the start: "none", "imagenet" or a file, of the backbone or of a whole detector
    norm: str = "auto"  # batch norm: "frozen", "batch", or "auto": frozen unless weights is "none"
    norm_epsilon: float = 1e-5  # torchvision's COCO_V1 ResNet-50 weights need 0.0
    trainable_layers: int | None = None  # last backbone stages that learn; None: 3 of a pretrained backbone, else all
    stride_in_1x1: bool = False  # of a bottleneck: caffe's weights need it, torchvision's stride is in the 3x3
    fpn_channels: int = 256

    def __post_init__(self) -> None:
        try:
            entry = self.entry
        except ValueError as error:
            raise ValueError(f"--model.backbone: {error}") from None
        allowed = ("auto", "frozen", "batch") if entry.norm == "batch" else ("auto",)
        if self.norm not in allowed:
            raise ValueError(f"--model.norm: got {self.norm!r} for {self.backbone}; allowed: {', '.join(allowed)}")
        if self.norm_epsilon != 1e-5 and (entry.norm == "layer" or self.backbone.startswith(PREFIX)):
            raise ValueError(
                f"--model.norm-epsilon: got {self.norm_epsilon}; {self.backbone} has its own, so leave it out"
            )
        if self.stride_in_1x1 and not entry.bottleneck:
            raise ValueError(f"--model.stride-in-1x1: got True for {self.backbone}; allowed: resnet50, resnet101")
        if self.fpn_channels < 1:
            raise ValueError(f"--model.fpn-channels: got {self.fpn_channels}; allowed: 1 or more")

    @property
    def entry(self) -> Backbone:
        """The backbone's line in the table."""
        return find_backbone(self.backbone)

    @property
    def resolved_returned_layers(self) -> tuple[int, ...]:
        """Stages whose maps enter the pyramid, finest first."""
        raise NotImplementedError

    @property
    def frozen_norm(self) -> bool:
        """Whether no norm has statistics that training changes."""
        frozen = self.norm == "frozen" or (self.norm == "auto" and self.weights != "none")
        return frozen or self.entry.norm == "layer"

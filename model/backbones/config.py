"""What a detector's configuration says of its backbone and pyramid, whichever detector it is."""

from dataclasses import dataclass

from model.backbones.table import Backbone, find_backbone
from model.backbones.timm_body import PREFIX

# What views are normalised with, in levels of 0 to 255, red first.
IMAGENET_MEAN = (123.675, 116.28, 103.53)
IMAGENET_DEVIATION = (58.395, 57.12, 57.375)
# Of a channel that is none of the camera's, unless the configuration says others: those of CMKD, ImageNet's blue.
EXTRA_MEAN, EXTRA_DEVIATION = 103.53, 57.375
RGB = "rgb"
FIRST_LAYERS = ("mean", "zero", "fresh")
MOST_CHANNELS = 64  # of one input


def option(field: str) -> str:
    """What a field is called on the command line."""
    return f"--model.{field.replace('_', '-')}"


@dataclass(frozen=True)
class BackboneConfig:
    backbone: str = "resnet50"
    weights: str = "imagenet"  # at the start: "none", "imagenet" or a file, of the backbone or of a whole detector
    norm: str = "auto"
    """Batch norm: "frozen"; "affine", whose scales and shifts learn while its statistics stay (as in mmdetection);
    "batch"; or "auto": frozen unless weights is "none"."""
    norm_epsilon: float = 1e-5  # torchvision's COCO_V1 ResNet-50 weights need 0.0
    trainable_layers: int | None = None  # last backbone stages that learn; None: 3 of a pretrained backbone, else all
    stride_in_1x1: bool = False  # of a bottleneck: caffe's weights need it, torchvision's stride is in the 3x3
    fpn_channels: int = 256
    pixel_order: str = "rgb"  # in which the network takes channels: "rgb" or "bgr", as caffe's weights need it
    pixel_mean: tuple[float, ...] = IMAGENET_MEAN  # taken off its input (0 to 255), in that order
    pixel_deviation: tuple[float, ...] = IMAGENET_DEVIATION  # that the difference is divided by
    inputs: tuple[str, ...] = (RGB,)
    """What the network sees, in the order of its channels: rgb, then aligned images by their names in the data."""
    extra_channels: tuple[int, ...] = ()
    """Of each input after rgb; none: as many as the data has."""
    extra_members: tuple[str, ...] = ()
    """Of which folders each input after rgb is made, in their order: gated0,gated1,gated2; none: those of the data."""
    extra_mean: tuple[float, ...] = ()
    """Taken off each input after rgb (0 to 255); none: 103.53 each."""
    extra_deviation: tuple[float, ...] = ()
    """That the difference is divided by; none: 57.375 each."""
    extra_range: tuple[tuple[float, float], ...] = ()
    """Which values of its files become 0 and 255, of each input after rgb; none: those of the data."""
    first_layer: str = "mean"
    """Filters of the channels after rgb at the start: the mean of those of rgb, or "zero". "fresh" draws the whole
    first convolution anew, rgb included, as CMKD does for all its networks. It then learns, as with more inputs."""

    def __post_init__(self) -> None:
        try:
            entry = self.entry
        except ValueError as error:
            raise ValueError(f"--model.backbone: {error}") from None
        allowed = ("auto", "frozen", "affine", "batch") if entry.norm == "batch" else ("auto",)
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
        if self.pixel_order not in ("rgb", "bgr"):
            raise ValueError(f"--model.pixel-order: got {self.pixel_order!r}; allowed: rgb, bgr")
        if len(self.pixel_mean) != 3 or len(self.pixel_deviation) != 3 or min(self.pixel_deviation) <= 0:
            raise ValueError(
                f"--model.pixel-mean and --model.pixel-deviation: got {self.pixel_mean} and {self.pixel_deviation}; "
                "allowed: three numbers each, deviations above 0"
            )
        self._check_inputs()

    def _check_inputs(self) -> None:
        if self.inputs[:1] != (RGB,) or len(set(self.inputs)) < len(self.inputs) or "" in self.inputs:
            raise ValueError(
                f"--model.inputs: got {' '.join(self.inputs) or 'nothing'}; allowed: rgb, then other names, each once"
            )
        for name in ("extra_channels", "extra_members", "extra_mean", "extra_deviation", "extra_range"):
            if getattr(self, name) and len(getattr(self, name)) != len(self.inputs) - 1:
                raise ValueError(
                    f"{option(name)}: got {len(getattr(self, name))} values for {len(self.inputs) - 1} inputs after "
                    "rgb; give one for each, or leave it out"
                )
        if not all(1 <= channels <= MOST_CHANNELS for channels in self.extra_channels):
            raise ValueError(f"--model.extra-channels: got {self.extra_channels}; allowed: 1 to {MOST_CHANNELS} each")
        if min(self.extra_deviation, default=1) <= 0:
            raise ValueError(f"--model.extra-deviation: got {self.extra_deviation}; allowed: above 0")
        if not all(low < high for low, high in self.extra_range):
            raise ValueError(f"--model.extra-range: got {self.extra_range}; allowed: the lower value first")
        if self.first_layer not in FIRST_LAYERS:
            raise ValueError(f"--model.first-layer: got {self.first_layer!r}; allowed: {', '.join(FIRST_LAYERS)}")
        if self.first_layer == "zero" and len(self.inputs) == 1:
            raise ValueError("--model.first-layer: got 'zero', but there is no input after rgb; leave it out")

    @property
    def extra_inputs(self) -> dict[str, int]:
        """How many channels each input after rgb has, in their order."""
        if len(self.extra_channels) != len(self.inputs) - 1:
            raise ValueError(
                f"--model.inputs: how many channels {', '.join(self.inputs[1:])} have is known from the data only; "
                "give --model.extra-channels too, one number for each"
            )
        return dict(zip(self.inputs[1:], self.extra_channels, strict=True))

    @property
    def extra_pixels(self) -> dict[str, tuple[float, float]]:
        """The mean and the deviation of each input after rgb."""
        names = self.inputs[1:]
        mean = self.extra_mean or (EXTRA_MEAN,) * len(names)
        deviation = self.extra_deviation or (EXTRA_DEVIATION,) * len(names)
        return dict(zip(names, zip(mean, deviation, strict=True), strict=True))

    @property
    def extra_limits(self) -> dict[str, tuple[float, float]]:
        """The range of each input after rgb; {} before the data is known."""
        return dict(zip(self.inputs[1:], self.extra_range, strict=False))

    @property
    def extra_folders(self) -> dict[str, tuple[str, ...]]:
        """The folders of each input after rgb; {} before the data is known."""
        return {name: tuple(text.split(",")) for name, text in zip(self.inputs[1:], self.extra_members, strict=False)}

    @property
    def num_channels(self) -> int:
        """Of the network's input."""
        return 3 + sum(self.extra_inputs.values())

    @property
    def entry(self) -> Backbone:
        """The backbone's line in the table."""
        return find_backbone(self.backbone)

    @property
    def resolved_returned_layers(self) -> tuple[int, ...]:
        """Stages whose maps enter the pyramid, finest first."""
        raise NotImplementedError

    @property
    def sees_imagenet(self) -> bool:
        """Whether the network takes views as they are."""
        seen = (self.pixel_order, tuple(self.pixel_mean), tuple(self.pixel_deviation))
        return seen == ("rgb", IMAGENET_MEAN, IMAGENET_DEVIATION) and self.inputs == (RGB,)

    @property
    def fixed_statistics(self) -> bool:
        """Whether no norm has statistics that training changes."""
        return self.frozen_norm or self.norm == "affine"

    @property
    def frozen_norm(self) -> bool:
        """Whether no norm of the body learns."""
        frozen = self.norm == "frozen" or (self.norm == "auto" and self.weights != "none")
        return frozen or self.entry.norm == "layer"

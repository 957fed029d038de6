"""What a dense detector is made of. Numbers default to those of its paper, as mmdetection has them."""

from dataclasses import dataclass
from typing import Any, ClassVar

from model.backbones.config import BackboneConfig, option
from model.config import MOST

STRIDES = (8, 16, 32, 64, 128)

SHARES = ("ignore_overlap", "score_threshold", "nms_threshold")
COUNTS = ("head_channels", "candidates_per_level", "detections_per_image")


@dataclass(frozen=True)
class DenseConfig(BackboneConfig):
    """A pyramid of five levels with one head for all of them."""

    coarse_from: str = "p5"  # what stride 64 is made of: "c5", the backbone's last map, or "p5", the pyramid's
    coarse_relu: bool = False  # before the level of stride 128 is made of that of stride 64

    num_convs: int = 4  # of each tower
    head_channels: int = 256
    norm_groups: int = 32  # of the towers' group norm; 0: no norm
    tower_bias: bool = False  # beside a norm; without a norm there always is one

    ignore_overlap: float = 0.5  # of a background candidate on an ignored box: more is left out; 1: no box is ignored
    faithful: bool = False
    """Repeat what the original code does although nobody wants it; each head says what that is."""

    score_threshold: float = 0.05
    candidates_per_level: int = 1000
    nms_threshold: float = 0.6
    detections_per_image: int = 100

    def __post_init__(self) -> None:
        super().__post_init__()
        try:
            self.resolved_returned_layers  # noqa: B018
        except ValueError as error:
            raise ValueError(f"--model.backbone: {self.backbone}: {error}") from None
        if self.coarse_from not in ("c5", "p5"):
            raise ValueError(f"--model.coarse-from: got {self.coarse_from!r}; allowed: c5, p5")
        for field in SHARES:
            if not 0.0 <= getattr(self, field) <= 1.0:
                raise ValueError(f"{option(field)}: got {getattr(self, field)}; allowed: 0 to 1")
        for field in COUNTS:
            if not 1 <= getattr(self, field) <= MOST:
                raise ValueError(f"{option(field)}: got {getattr(self, field)}; allowed: 1 to {MOST}")
        if not 0 <= self.num_convs <= 100:
            raise ValueError(f"--model.num-convs: got {self.num_convs}; allowed: 0 to 100")
        if self.norm_groups < 0 or (self.norm_groups and self.head_channels % self.norm_groups):
            raise ValueError(
                f"--model.norm-groups: got {self.norm_groups} for {self.head_channels} channels; allowed: 0 or a "
                "divisor of them"
            )

    @property
    def resolved_returned_layers(self) -> tuple[int, ...]:
        return self.entry.at_strides(STRIDES[:3])

    @property
    def strides(self) -> tuple[int, ...]:
        """Pixels of the view per pixel of each map, finest first."""
        return STRIDES


def check_ratios(config: "RetinaNetConfig | AtssConfig | GflConfig") -> None:
    if not config.anchor_ratios or min(config.anchor_ratios) <= 0 or config.anchor_base <= 0:
        raise ValueError(
            f"--model.anchor-base and --model.anchor-ratios: got {config.anchor_base} and {config.anchor_ratios}; "
            "allowed: numbers above 0, at least one ratio"
        )


def check_style(config: "RetinaNetConfig | FcosConfig") -> None:
    if config.style not in ("mmdetection", "torchvision"):
        raise ValueError(f"--model.style: got {config.style!r}; allowed: mmdetection, torchvision")


@dataclass(frozen=True)
class RetinaNetConfig(DenseConfig):
    """Lin et al. 2017: nine anchors a location, focal loss, towers without norm."""

    kind: ClassVar[str] = "retinanet"

    coarse_from: str = "c5"
    norm_groups: int = 0
    nms_threshold: float = 0.5
    style: str = "mmdetection"
    """Whose weights these are. "mmdetection": exact anchors at exact strides. "torchvision": anchors of whole pixels,
    at steps of canvas // map."""
    anchor_base: float = 4.0  # sides in strides
    anchors_per_octave: int = 3
    anchor_ratios: tuple[float, ...] = (0.5, 1.0, 2.0)  # height / width
    foreground_iou: float = 0.5
    background_iou: float = 0.4

    def __post_init__(self) -> None:
        super().__post_init__()
        check_ratios(self)
        check_style(self)
        if not 1 <= self.anchors_per_octave <= 100:
            raise ValueError(f"--model.anchors-per-octave: got {self.anchors_per_octave}; allowed: 1 to 100")
        if not 0 <= self.background_iou <= self.foreground_iou <= 1:
            raise ValueError(
                f"--model.background-iou and --model.foreground-iou: got {self.background_iou} and "
                f"{self.foreground_iou}; allowed: 0 to 1, the second not below the first"
            )


@dataclass(frozen=True)
class FcosConfig(DenseConfig):
    """Tian et al. 2019: points, distances, centreness from the class tower."""

    kind: ClassVar[str] = "fcos"

    coarse_relu: bool = True
    nms_threshold: float = 0.5
    style: str = "mmdetection"
    """Whose weights these are. "mmdetection": points in the middle of cells, score = class * centreness where the class
    is above the threshold, a scale of the distances is learnt for each level. "torchvision": points at steps of
    canvas // map from 0, score = sqrt(class * centreness), no scales."""
    size_edges: tuple[float, ...] = (64.0, 128.0, 256.0, 512.0)
    """Where the range of distances of a level ends and that of the next begins, in pixels."""
    distances: str = "exp"
    """"exp": a distance is e^x pixels. "relu": max(x, 0) strides, as later weights have it."""
    start_distance: float = 0.0
    """Untrained boxes begin with sides this many strides away, where distances are "exp"; 0: a pixel on every level, as
    the original. A short run is spared learning the sizes of its levels."""
    centerness_from: str = "class"
    """The tower that tells the centreness: "class" or, in later weights, "box"."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_style(self)
        learnt = self.distances == "exp" and self.style == "mmdetection"
        if not 0 <= self.start_distance <= 64 or (self.start_distance and not learnt):
            raise ValueError(
                f"--model.start-distance: got {self.start_distance}; allowed: 0 to 64, but only 0 with "
                "--model.distances relu or --model.style torchvision; give --model.start-distance 0"
            )
        for field, allowed in (("distances", ("exp", "relu")), ("centerness_from", ("class", "box"))):
            if getattr(self, field) not in allowed:
                raise ValueError(f"{option(field)}: got {getattr(self, field)!r}; allowed: {', '.join(allowed)}")
        if len(self.size_edges) != len(self.strides) - 1 or list(self.size_edges) != sorted(set(self.size_edges)):
            raise ValueError(
                f"--model.size-edges: got {self.size_edges}; allowed: {len(self.strides) - 1} rising numbers, one "
                f"between two of the {len(self.strides)} levels"
            )


@dataclass(frozen=True)
class AtssConfig(DenseConfig):
    """Zhang et al. 2020: one square anchor a location, adaptive selection, centreness from the box tower."""

    kind: ClassVar[str] = "atss"

    anchor_base: float = 8.0
    anchor_ratios: tuple[float, ...] = (1.0,)
    num_nearest: int = 9

    def __post_init__(self) -> None:
        super().__post_init__()
        check_ratios(self)
        if not 1 <= self.num_nearest <= MOST:
            raise ValueError(f"--model.num-nearest: got {self.num_nearest}; allowed: 1 to {MOST}")


@dataclass(frozen=True)
class GflConfig(DenseConfig):
    """Li et al. 2020: one square anchor a location, a class score that is the box's quality, sides as bins."""

    kind: ClassVar[str] = "gfl"

    anchor_base: float = 8.0
    anchor_ratios: tuple[float, ...] = (1.0,)
    num_nearest: int = 9
    num_bins: int = 17  # a side is 0 to num_bins - 1 strides long
    start_distance: float = 0.0
    """Untrained boxes begin with sides about this many strides away; 0: all bins equally likely, so sides of
    (num_bins - 1) / 2 strides, as the original."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_ratios(self)
        for field, least in (("num_nearest", 1), ("num_bins", 2)):
            if not least <= getattr(self, field) <= MOST:
                raise ValueError(f"{option(field)}: got {getattr(self, field)}; allowed: {least} to {MOST}")
        if not 0 <= self.start_distance <= self.num_bins / 4:
            raise ValueError(
                f"--model.start-distance: got {self.start_distance}; allowed: 0 to {self.num_bins / 4:g}, a quarter of "
                "--model.num-bins; give --model.start-distance 0"
            )


AnyDense = RetinaNetConfig | FcosConfig | AtssConfig | GflConfig

# For what `model.config.small_model` is for: its backbone and widths, towers half as deep, and smaller anchors. On
# canvases of about 200 x 350 pixels half of the sample world's objects are below 22 pixels; the papers' anchors of at
# least 32 and 64 pixels fit few of them. FCOS's and GFL's boxes begin with sides of two strides: in the original they
# begin at 1 pixel and 8 strides, and a run of 900 steps is too short to learn that first.
NARROW: dict[str, Any] = {
    "backbone": "mobilenet_v2", "trainable_layers": 5, "fpn_channels": 128, "head_channels": 128, "num_convs": 2,
}  # fmt: skip
SMALL_RETINANET = RetinaNetConfig(**NARROW, anchor_base=2.0)
SMALL_FCOS = FcosConfig(**NARROW, start_distance=2.0)
SMALL_ATSS = AtssConfig(**NARROW, anchor_base=2.0)
SMALL_GFL = GflConfig(**NARROW, anchor_base=2.0, start_distance=2.0)

"""What a detector is made of. Numbers default to torchvision's Faster R-CNN; `None` is the backbone's own default."""

from dataclasses import dataclass, replace
from typing import ClassVar

from model.backbones.config import BackboneConfig, option

SHARES = (
    "rpn_nms_threshold",
    "rpn_foreground_iou",
    "rpn_background_iou",
    "rpn_positive_fraction",
    "roi_foreground_iou",
    "roi_background_iou",
    "roi_positive_fraction",
    "ignore_overlap",
    "score_threshold",
    "nms_threshold",
)
COUNTS = (
    "representation_size",
    "roi_canonical_scale",
    "rpn_pre_nms_train",
    "rpn_pre_nms_test",
    "rpn_post_nms_train",
    "rpn_post_nms_test",
    "rpn_samples_per_image",
    "regions_per_image",
    "detections_per_image",
)
MOST = 10_000  # of any count: a file must not be able to ask for all the memory


@dataclass(frozen=True)
class ModelConfig(BackboneConfig):
    """A Faster R-CNN with a feature pyramid.

    The canvas it is for decides the anchor sizes: with images of about 200 pixels' height use `small_model()`.
    """

    kind: ClassVar[str] = "faster_rcnn"

    style: str = "torchvision"
    """Whose weights these are. "torchvision": anchors of whole pixels, at steps of canvas // map; two samples a bin,
    half a pixel off. "mmdetection": exact anchors at exact strides; as many samples as a bin has pixels, aligned; size
    deltas bounded on both ends."""
    returned_layers: tuple[int, ...] | None = None  # stages in the pyramid; None: the backbone's own choice
    representation_size: int = 1024  # width of the box head
    anchor_sizes: tuple[tuple[int, ...], ...] | None = None  # one tuple per level, the pooled one included
    anchor_ratios: tuple[float, ...] = (0.5, 1.0, 2.0)  # height / width
    roi_canonical_scale: int = 224  # a box of this side goes to level 4 (stride 16)

    rpn_pre_nms_train: int = 2000  # per level
    rpn_pre_nms_test: int = 1000
    rpn_post_nms_train: int = 2000  # per image
    rpn_post_nms_test: int = 1000
    rpn_nms_threshold: float = 0.7
    rpn_foreground_iou: float = 0.7
    rpn_background_iou: float = 0.3
    rpn_samples_per_image: int = 256
    rpn_positive_fraction: float = 0.5
    rpn_score_threshold: float | None = None  # of a proposal; None: 0.05 with MobileNetV3, else 0, as torchvision

    roi_foreground_iou: float = 0.5
    roi_background_iou: float = 0.5
    regions_per_image: int = 512
    roi_positive_fraction: float = 0.25
    ignore_overlap: float = 0.5  # of a background candidate on an ignored box: more is left out; 1: no box is ignored

    score_threshold: float = 0.05
    nms_threshold: float = 0.5
    detections_per_image: int = 100

    def __post_init__(self):
        super().__post_init__()
        if self.style not in ("torchvision", "mmdetection"):
            raise ValueError(f"ModelConfig.style: got {self.style!r}; allowed: torchvision, mmdetection")
        for name in SHARES:
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"{option(name)}: got {getattr(self, name)}; allowed: 0 to 1")
        for name in COUNTS:
            if not 1 <= getattr(self, name) <= MOST:
                raise ValueError(f"{option(name)}: got {getattr(self, name)}; allowed: 1 to {MOST}")
        for samples, fraction in (
            ("rpn_samples_per_image", "rpn_positive_fraction"),
            ("regions_per_image", "roi_positive_fraction"),
        ):
            if int(getattr(self, samples) * getattr(self, fraction)) < 1:
                raise ValueError(
                    f"{option(samples)}: got {getattr(self, samples)} with {option(fraction)} "
                    f"{getattr(self, fraction)}; their product must be 1 or more, or no box is ever learned; raise "
                    "one of them"
                )
        if len(self.resolved_anchor_sizes) != self.num_levels:
            raise ValueError(
                f"--model.anchor-sizes: got {len(self.resolved_anchor_sizes)} levels of anchors for "
                f"{self.num_levels} levels of features (--model.returned-layers {self.resolved_returned_layers} and "
                "the pooled one); give one tuple per level"
            )
        if not self.anchor_ratios or min(self.anchor_ratios) <= 0:
            raise ValueError(f"--model.anchor-ratios: got {self.anchor_ratios}; allowed: numbers above 0, at least one")
        if min((min(sizes, default=0) for sizes in self.resolved_anchor_sizes), default=0) <= 0:
            raise ValueError(f"--model.anchor-sizes: got {self.resolved_anchor_sizes}; allowed: numbers above 0")
        if len({len(sizes) for sizes in self.resolved_anchor_sizes}) > 1:
            raise ValueError(
                f"--model.anchor-sizes: got {self.resolved_anchor_sizes}; every level needs the same number of "
                "sizes, because torchvision's RPN head is shared by the levels"
            )

    @property
    def resolved_returned_layers(self) -> tuple[int, ...]:
        return self.entry.returned if self.returned_layers is None else tuple(self.returned_layers)

    @property
    def num_levels(self) -> int:
        return len(self.resolved_returned_layers) + 1

    @property
    def resolved_rpn_score_threshold(self) -> float:
        usual = self.entry.rpn_score_threshold
        return usual if self.rpn_score_threshold is None else self.rpn_score_threshold

    @property
    def strides(self) -> tuple[int, ...]:
        """Pixels of the view per pixel of each map, the pooled level last."""
        strides = tuple(self.entry.strides[layer] for layer in self.resolved_returned_layers)
        return (*strides, 2 * strides[-1])

    @property
    def resolved_anchor_sizes(self) -> tuple[tuple[int, ...], ...]:
        sizes = self.entry.anchor_sizes if self.anchor_sizes is None else self.anchor_sizes
        return tuple(tuple(level) for level in sizes)


def small_model(**changes) -> ModelConfig:
    """MobileNetV2 for canvases of about 200 x 350 pixels and two CPU cores: torchvision's parts, only narrower."""
    small = ModelConfig(
        backbone="mobilenet_v2",
        trainable_layers=5,
        fpn_channels=128,
        representation_size=256,
        rpn_pre_nms_train=600,
        rpn_pre_nms_test=400,
        rpn_post_nms_train=400,
        rpn_post_nms_test=150,
        rpn_samples_per_image=128,
        regions_per_image=64,
    )
    return replace(small, **changes)

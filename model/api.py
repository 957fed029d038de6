"""What every detector can do, and what it returns: the one page between `model` and its users.

A detector is a module with the methods of `Detector`. It works in stages, so that a distillation method can use any of
them. The stages: the pyramid, the towers of a dense head, raw predictions, sampled regions, detections. Shapes follow
from the canvas, the batch size and the configuration, never from the data.

Legend: B images, H W canvas, G boxes per image after padding, L levels. N candidates (anchors, points or regions), R
regions, K classes with background 0, D detection slots.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, NamedTuple

from torch import Tensor, nn


class Want(NamedTuple):
    """What `look` keeps. Fixed before compiling: a stage that no caller wants costs nothing."""

    neck: tuple[int, ...] = ()  # strides of the pyramid's maps
    tower: int | None = None  # maps of both towers of a dense head after this many of its convolutions
    dense: bool = False  # raw predictions at every location, and all else that `losses` reads
    rois: int = 0  # so many of the network's own best proposals, and what its box head says of them
    found: bool = False  # detections

    def __or__(self, other: "Want") -> "Want":
        """All that the two keep."""
        towers = {tower for tower in (self.tower, other.tower) if tower is not None}
        if len(towers) > 1:
            raise ValueError(f"two methods need towers after {sorted(towers)} convolutions; give both one place")
        most = (max(a, b) for a, b in zip(self[2:], other[2:], strict=True))
        return Want(tuple(sorted({*self.neck, *other.neck})), *towers or (None,), *most)


class Detections(NamedTuple):
    """Falling scores, in the pixels of the view, clipped to the image. Slots from count_B on are zero."""

    boxes_BD4: Tensor
    scores_BD: Tensor
    labels_BD: Tensor
    count_B: Tensor


class Rois(NamedTuple):
    """Regions, each with its pyramid level, which it keeps in whichever network it is pooled from."""

    boxes_BR4: Tensor
    level_BR: Tensor
    real_BR: Tensor  # False: an empty slot
    logits_BRK: Tensor | None = None  # of the network's own box head
    deltas_BRK4: Tensor | None = None


class Outputs(NamedTuple):
    """What a network saw in a view. None where nothing that was wanted needed it."""

    canvas: tuple[int, int]
    neck: tuple[Any, ...]  # a map (B, C, h, w) a level, finest first; None for levels not wanted
    towers: tuple[tuple[Tensor, Tensor], ...] | None = None  # a level's class and box map, after the ReLU
    logits: tuple[Tensor, ...] | None = None  # a level's class logits (B, N_l, K - 1); RPN: (B, N_l)
    boxes: tuple[Tensor, ...] | None = None  # a level's raw box predictions (B, N_l, 4) or, by bins, (B, N_l, 4 * bins)
    quality: tuple[Tensor, ...] | None = None  # a level's centreness logits (B, N_l)
    rois: Rois | None = None
    found: Detections | None = None


class Truth(NamedTuple):
    """The boxes a network is to find, in the pixels of its view, and how much each counts."""

    sizes_B2: Tensor  # (h, w) of each image inside the canvas; 0 for rows that only fill up a batch
    boxes_BG4: Tensor
    labels_BG: Tensor  # 0 where padded
    ignore_BG: Tensor  # neither rewarded nor punished
    weight_BG: Tensor  # 1 for an annotation, less for a pseudo-label that is not sure; 0 is the same as ignored
    keys_B: Tensor  # every random draw of a loss is a function of it


class Assigned(NamedTuple):
    """What the losses trained: masks over all candidates, never a gather."""

    matched_BN: Tensor  # index of the box that a candidate is responsible for
    state_BN: Tensor  # 1 foreground, 0 background, -1 left out
    weight_BN: Tensor  # of the candidate's box term
    candidates_BN4: Tensor  # anchors, points as boxes, or sampled regions; the batch dimension may be 1


Mean = Callable[[Tensor], Tensor]  # of a count: its mean over ranks


def own(count: Tensor) -> Tensor:
    """The mean over ranks where there is one rank."""
    return count


class Detector(nn.Module, ABC):
    """What a detector offers beside nn.Module's own methods.

    Losses are means over the global batch: each sum is divided by `mean` of this rank's count.
    """

    terms: tuple[str, ...]  # names of its losses
    strides: tuple[int, ...]  # of the pyramid's levels, finest first
    channels: int  # of the pyramid's maps
    num_classes: int  # the background counts
    config: Any

    @abstractmethod
    def look(self, images_B3HW: Tensor, sizes_B2: Tensor, want: Want) -> Outputs:
        """What the network sees in a view; sizes_B2 are its images' own.

        The channels of its further inputs stand behind RGB, as `model.backbones.pixels.join_inputs` puts them.
        """

    @abstractmethod
    def losses(self, out: Outputs, truth: Truth, mean: Mean = own) -> tuple[dict[str, Tensor], Assigned]:
        """The terms of a view seen with `Want(dense=True)`, and what they trained."""

    @abstractmethod
    def detect(self, images_B3HW: Tensor, sizes_B2: Tensor) -> Detections: ...

    def head_from(self, towers: tuple[tuple[Tensor, Tensor], ...], k: int) -> Outputs:
        """Dense heads: the rest of both towers after convolution k, and the predictors."""
        raise ValueError(f"a {type(self).__name__} has no dense head to hand towers to; choose a dense detector")

    def box_head(self, neck: tuple[Tensor, ...], rois: Rois) -> tuple[Tensor, Tensor]:
        """Two-stage detectors: logits_BRK and deltas_BRK4 of given regions, pooled from any network's maps."""
        raise ValueError(f"a {type(self).__name__} has no box head; choose a two-stage detector")

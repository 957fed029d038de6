"""What flows through Fairweather: Sample (one annotated image), Batch (decoded images), Views (what networks see).

Shape legend, used in names everywhere: B images, H W canvas (h w the corrupted view's), G boxes per image, padded. C
channels, K classes with background 0, L pyramid levels. A anchors, P proposals, R sampled regions.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:  # packing works without torch, which takes seconds to import
    from torch import Tensor


@dataclass(frozen=True)
class Sample:
    """One annotated image, as a source found it. Boxes are xyxy in pixels of the stored image, 0-based, x2 > x1."""

    path: Path
    size: tuple[int, int]  # (h, w), after EXIF rotation
    boxes_N4: np.ndarray  # float32
    labels_N: np.ndarray  # int64, 1..K-1
    ignore_N: np.ndarray  # bool: crowd or difficult, neither rewarded nor punished
    domain: str
    id: int
    extra: dict[str, Path] = field(default_factory=dict)  # aligned images of other sensors, by name: gated0, depth


@dataclass(frozen=True)
class Batch:
    """Decoded images of one orientation in one canvas, top left aligned, zero elsewhere.

    All but sizes_B2 and ids_B is on the training device. These come from the index and stay on the host, so that
    drawing the views never has to read the device. A row with id -1 and size 0 is padding, in the last batch of an
    orientation in an epoch or an evaluation. It counts for nothing.

    extra: what else the loader was asked for, by the name of its modality. Aligned with the images and padded alike. C
    is 1 or 3 for an image, and their sum for a modality of several: three grey slices have 3.
    """

    images_BHW3: Tensor  # uint8, RGB
    sizes_B2: Tensor  # int32 on the host, (h, w) inside the canvas
    boxes_BG4: Tensor  # float32 xyxy
    labels_BG: Tensor  # int64, 0 where padded
    ignore_BG: Tensor  # bool
    ids_B: Tensor  # int64 on the host
    epoch: int
    seed: int
    weight_BG: Tensor | None = None  # float32, how much a box counts, above 0 and at most 1; none: 1 each
    extra: dict[str, Tensor] = field(default_factory=dict)  # {name: uint8 BHWC}


@dataclass(frozen=True)
class View:
    """Images as a network sees them: channels-last in memory, normalised with ImageNet's mean and deviation, zero where
    padded. bfloat16 on a GPU and float32 on a CPU. Sizes and boxes are in the view's own pixels.
    """

    images_B3HW: Tensor
    sizes_B2: Tensor  # int32 on the device, (h, w)
    boxes_BG4: Tensor


@dataclass(frozen=True)
class Views:
    """What is made from a Batch: the clean view, and the corrupted and downscaled one.

    Both share one horizontal flip. A view that no network uses is None.

    extra goes with the clean view, even where that is None: its flip, its canvas, its sizes, and never corrupted.
    Levels of 0 to 255 become 0 to 1, in the views' own precision and channels-last; zero where padded.
    """

    clean: View | None
    corrupted: View | None
    ratio_B: Tensor  # float32, corrupted size / clean size
    labels_BG: Tensor
    ignore_BG: Tensor
    weight_BG: Tensor  # float32, how much a box counts
    keys_B: Tensor  # int64 on the device: hash of (seed, epoch, id); every later random draw of the step starts here
    ids_B: Tensor  # int64 on the host
    extra: dict[str, Tensor] = field(default_factory=dict)  # {name: BCHW}

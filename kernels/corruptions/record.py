"""What the rest of Fairweather knows of a corruption: one frozen record, at the end of the corruption's file.

Every table (names, severities, stages, what a GPU launches when, who needs masks) follows from the list of these
records in `kernels/corruptions/registry.py`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np


class MaskPlan(NamedTuple):
    """How one group of a pool's masks is made."""

    make: Callable[[np.random.Generator, int], np.ndarray]  # (generator, number of the mask) -> whole numbers
    shapes: list[tuple[int, int, int]]  # height, width, channels of each mask
    flips: bool  # a mirrored mask is as good
    map_side: int = 0  # fog: side of the plasma map; 0 where images read their masks without a stride


@dataclass(frozen=True)
class Masks:
    """The masks of a type. They never look at an image, so `kernels.launch.pool` makes them once."""

    argument: Callable[[int], float]  # severity -> number the masks depend on: severities of one number share masks
    plan: Callable[[float, tuple[int, int], int, int], MaskPlan]  # (argument, canvas, margin, number of masks)


class OwnKernel(NamedTuple):
    """A GPU kernel that one type has of its own. Block z works on image lists_M[first_image + z], of that type."""

    name: str
    kernel: Any
    arrays: tuple[str, ...]  # what it takes before lists_M, of `kernels.launch.cuda_kernels.Arguments`
    tile: tuple[int, int]  # height and width of the pixels that a block makes, at least
    block: tuple[int, int]  # threads along x and y


@dataclass(frozen=True)
class Corruption:
    """The facts about one corruption. `kernels/task.py` says what a stage is."""

    name: str
    severities: tuple  # five entries, numbers or tuples of numbers: the strengths, in the file's own meaning
    stages: tuple[Callable, ...]
    # How much it knows of the weathers that detectors are tested in. optics: what a lens does; weather: what falls,
    # hangs or freezes before it; night: darkness and lamps; none: none of these.
    prior: Literal["none", "optics", "weather", "night"]
    subset: Literal["noise", "blur", "weather", "digital", "validation"] | None = None  # of ImageNet-C; None: ours
    training: bool = False  # one of CD-FKD's 15
    cpu_stages: tuple[Callable, ...] = ()  # the same pixels by whole images, for the CPU; () for the stages themselves
    alone: tuple[Callable, ...] = ()  # CPU stages that walk through the image in order: one thread does them alone
    # In which step, 1 to 4, a GPU runs each stage but the last: a thread a pixel. The last one reads the source at its
    # own pixels only, in the launch `finish`. The simple way for a new type; those here have none but the last.
    launches: tuple[int, ...] = ()
    # The module beside its file whose KERNELS, of `OwnKernel`, write its corrupted pixels on a GPU into pixels_BHX.
    # `finish` finds them there. The module is imported on a GPU only. The last stage then runs on a CPU only, and so do
    # those of the others that `launches` does not name.
    own_kernels: str | None = None
    statistics: bool = False  # reads task.statistics
    # What must see the whole image at once: (NumPy on a CPU or torch on a GPU, its float32 pixels 3 x H x W, the
    # severity's number) -> 3 x H x W, which the first stage finds in task.a.
    whole: Callable[[Any, Any, Any], Any] | None = None
    masks: Masks | None = None  # reads task.pool
    unit: float = 1.0  # task.extra holds the severity's numbers times this ...
    extra: Callable[[int], np.ndarray] | None = None  # ... or what this makes of the severity ...
    # ... or, where it depends on the image, what this writes: (extra_E, severity, height, width, key).
    fill: Callable[[np.ndarray, int, int, int, int], None] | None = None
    # From how many pixels on threads share an image's rows. Handing them over took some 0.2 ms where it was measured.
    # Half an image of 600 x 1000 takes about as long in the lightest types.
    shared_area: int = 1 << 17

    def __post_init__(self) -> None:
        if len(self.severities) != 5:
            raise ValueError(f"{self.name}: severities must have 5 entries; got {len(self.severities)}")
        if len(self.launches) != len(self.stages) - 1 and not self.own_kernels:
            raise ValueError(
                f"{self.name}: launches must have one entry for each of the {len(self.stages)} stages but the last; "
                f"got {self.launches}"
            )
        wrong = [launch for launch in self.launches if launch not in LAUNCHES]
        places = [LAUNCHES.index(launch) for launch in self.launches if launch in LAUNCHES]
        if wrong or places != sorted(set(places)):
            raise ValueError(f"{self.name}: launches must be of {LAUNCHES}, each once, in order; got {self.launches}")
        if (self.unit != 1.0) + (self.extra is not None) + (self.fill is not None) > 1:
            raise ValueError(f"{self.name}: give only one of unit, extra and fill")

    def on_cpu(self) -> tuple[Callable, ...]:
        return self.cpu_stages or self.stages

    def make_whole(self, library: Any, image_HW3: Any, level: int) -> Any:
        """What `whole` makes of uint8 pixels, H x W x 3. library: numpy or torch; both know all names used here."""
        assert self.whole is not None
        pixels_3HW = library.moveaxis(library.asarray(image_HW3, dtype=library.float32), 2, 0)
        return library.moveaxis(self.whole(library, pixels_3HW, self.severities[level - 1]), 0, 2)

    def numbers(self, level: int) -> np.ndarray:
        """What `task.extra` begins with at a severity, where it is the same for every image."""
        return np.atleast_1d(self.severities[level - 1]) * self.unit if self.extra is None else self.extra(level)


LAUNCHES = (1, 2, 3, 4)  # in the order in which a GPU runs them

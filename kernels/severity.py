"""The corruptions' names, subsets and five severities: the 19 of ImageNet-C (Hendrycks and Dietterich 2019), and ours.

Names, order and numbers of the 19 are those of the package `imagecorruptions`; its function of the same name says what
each number means. Each stands in the record of its corruption (`kernels/corruptions/record.py`).
"""

from numbers import Real

from kernels.corruptions.registry import CORRUPTIONS

SEVERITIES = (1, 2, 3, 4, 5)
TABLES: dict[str, tuple] = {corruption.name: corruption.severities for corruption in CORRUPTIONS}


def _subset(*names: str) -> tuple[str, ...]:
    return tuple(corruption.name for corruption in CORRUPTIONS if corruption.subset in names)


ALL = tuple(TABLES)
BENCHMARK = _subset("noise", "blur", "weather", "digital")  # ImageNet-C's own 15, over which mPC is taken
TRAINING = tuple(corruption.name for corruption in CORRUPTIONS if corruption.training)  # CD-FKD's 15
VALIDATION = _subset("validation")
IMAGENET_C = BENCHMARK + VALIDATION  # what `imagecorruptions` has
# Kept out of training by CD-FKD: too near the test weather.
UNLIKE_TRAINING = tuple(name for name in IMAGENET_C if name not in TRAINING)

SUBSETS: dict[str, tuple[str, ...]] = {
    "common": BENCHMARK,
    "validation": VALIDATION,
    "all": IMAGENET_C,
    "own": tuple(name for name in ALL if name not in IMAGENET_C),
    "noise": _subset("noise"),
    "blur": _subset("blur"),
    "weather": _subset("weather"),
    "digital": _subset("digital"),
    "training": TRAINING,
}

# Numbers of the corruptions inside compiled code.
NONE = -1
INDEX = {name: index for index, name in enumerate(ALL)}


def get_corruption_names(subset: str = "common") -> list[str]:
    """Names of a subset: those of `imagecorruptions`, "training", the 15 of CD-FKD, or "own", which only we have."""
    if subset not in SUBSETS:
        raise ValueError(f"get_corruption_names: unknown subset {subset!r}; choose one of {', '.join(SUBSETS)}")
    return list(SUBSETS[subset])


def check_name(name: str) -> str:
    if not isinstance(name, str) or name not in INDEX:
        import difflib

        near = difflib.get_close_matches(str(name), ALL, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else f"; choose one of {', '.join(ALL)}"
        raise ValueError(f"unknown corruption {name!r}{hint}")
    return name


def check_severity(severity: int) -> int:
    if isinstance(severity, bool) or not isinstance(severity, Real) or severity not in SEVERITIES:
        raise ValueError(f"severity must be one of 1, 2, 3, 4, 5; got {severity!r}")
    return int(severity)

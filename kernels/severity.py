"""The 19 corruptions of ImageNet-C (Hendrycks and Dietterich 2019) and their five severities.

Names, order and numbers are those of the package `imagecorruptions`; its function of the same name says what each
number means. Everything else in Fairweather reads its strengths here.
"""

from numbers import Real

SEVERITIES = (1, 2, 3, 4, 5)

# name: one entry a severity. Comments give the meaning of the numbers.
TABLES: dict[str, tuple] = {
    "gaussian_noise": (0.08, 0.12, 0.18, 0.26, 0.38),  # deviation, image in 0..1
    "shot_noise": (60, 25, 12, 5, 3),  # photons of a white pixel
    "impulse_noise": (0.03, 0.06, 0.09, 0.17, 0.27),  # share of values replaced
    "defocus_blur": ((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5)),  # disk radius, blur of its rim
    "glass_blur": ((0.7, 1, 2), (0.9, 2, 1), (1.0, 2, 3), (1.1, 3, 2), (1.5, 4, 2)),  # sigma, reach, passes
    "motion_blur": ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15)),  # radius, sigma
    "zoom_blur": ((1.11, 0.01), (1.16, 0.01), (1.21, 0.02), (1.26, 0.02), (1.31, 0.03)),  # end and step of numpy.arange
    "snow": (  # mean, deviation, zoom, threshold, blur radius, blur sigma, share of the image kept
        (0.1, 0.3, 3, 0.5, 10, 4, 0.8),
        (0.2, 0.3, 2, 0.5, 12, 4, 0.7),
        (0.55, 0.3, 4, 0.9, 12, 8, 0.7),
        (0.55, 0.3, 4.5, 0.85, 12, 8, 0.65),
        (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55),
    ),
    "frost": ((1.0, 0.4), (0.8, 0.6), (0.7, 0.7), (0.65, 0.7), (0.6, 0.75)),  # weights of image and frost
    "fog": ((1.5, 2.0), (2.0, 2.0), (2.5, 1.7), (2.5, 1.5), (3.0, 1.4)),  # thickness, decay of the plasma
    "brightness": (0.1, 0.2, 0.3, 0.4, 0.5),  # added to V
    "contrast": (0.4, 0.3, 0.2, 0.1, 0.05),  # factor around the channel's mean
    "elastic_transform": (12.5, 16.25, 21.25, 25.0, 30.0),  # factor of the smoothed displacement
    "pixelate": (0.6, 0.5, 0.4, 0.3, 0.25),  # scale of the small image
    "jpeg_compression": (25, 18, 15, 10, 7),  # quality
    "speckle_noise": (0.15, 0.2, 0.35, 0.45, 0.6),  # deviation relative to the value
    "gaussian_blur": (1, 2, 3, 4, 6),  # sigma
    "spatter": (  # mean, deviation, sigma, threshold, strength (water) or sigma of the rim (mud), 1 where mud
        (0.65, 0.3, 4, 0.69, 0.6, 0),
        (0.65, 0.3, 3, 0.68, 0.6, 0),
        (0.65, 0.3, 2, 0.68, 0.5, 0),
        (0.65, 0.3, 1, 0.65, 1.5, 1),
        (0.67, 0.4, 1, 0.65, 1.5, 1),
    ),
    "saturate": ((0.3, 0.0), (0.1, 0.0), (2.0, 0.0), (5.0, 0.1), (20.0, 0.2)),  # factor and offset of S
}

ALL = tuple(TABLES)
BENCHMARK = ALL[:15]  # ImageNet-C's own 15, over which mPC is taken
VALIDATION = ALL[15:]
UNLIKE_TRAINING = ("snow", "frost", "fog", "gaussian_blur")  # kept out of training by CD-FKD: too near the test weather
TRAINING = tuple(name for name in ALL if name not in UNLIKE_TRAINING)

SUBSETS: dict[str, tuple[str, ...]] = {
    "common": BENCHMARK,
    "validation": VALIDATION,
    "all": ALL,
    "noise": ALL[0:3],
    "blur": ALL[3:7],
    "weather": ALL[7:11],
    "digital": ALL[11:15],
    "training": TRAINING,
}

# Numbers of the corruptions inside compiled code.
NONE = -1
INDEX = {name: index for index, name in enumerate(ALL)}


def get_corruption_names(subset: str = "common") -> list[str]:
    """Names of a subset: `imagecorruptions`'s subsets, and "training", the 15 that CD-FKD trains on."""
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

"""The five domains of the diverse-weather benchmark: names, spellings met on disk, order, the figures of the paper.

Any other domain name is kept as it is and comes after these. Names and layout: AmingWu/Single-DGOD; figures: Lee et
al., "CD-FKD: Cross-Domain Feature Knowledge Distillation for Robust Single-Domain Generalization in Object
Detection", arXiv 2603.16439, mAP at IoU 0.5 with ResNet-101-FPN.
"""

from collections.abc import Iterable

SOURCE = "daytime_clear"
TARGETS = ("night_sunny", "dusk_rainy", "night_rainy", "daytime_foggy")
BENCHMARK = (SOURCE, *TARGETS)

# What a reader calls them; the folder "night_sunny" holds clear nights.
TITLES = {
    "daytime_clear": "Daytime-Clear",
    "night_sunny": "Night-Clear",
    "dusk_rainy": "Dusk-Rainy",
    "night_rainy": "Night-Rainy",
    "daytime_foggy": "Daytime-Foggy",
}

ALIASES = {"daytime_sunny": "daytime_clear", "night_clear": "night_sunny"}

# Rows of the paper's ablation as printed: source, the targets in the order above, mean of the targets.
PAPER = {
    "Faster R-CNN, clean source only": (54.9, 36.6, 27.9, 12.1, 32.1, 27.2),
    "+ corrupt and downscale": (58.8, 41.1, 33.9, 14.9, 34.0, 30.9),
    "+ global distillation": (62.0, 46.3, 41.7, 21.4, 39.5, 37.2),
    "+ instance distillation": (62.5, 46.7, 42.1, 21.9, 39.7, 37.6),
    "CD-FKD (both)": (62.7, 47.3, 42.3, 23.4, 40.2, 38.3),
}
PAPER_SOURCE = "CD-FKD, arXiv 2603.16439, ResNet-101-FPN on the diverse-weather benchmark, mAP at IoU 0.5"


def canonical(name: str) -> str:
    """The benchmark's name of a domain in any of its spellings: "Night-Clear" and "Night_Sunny" are "night_sunny"."""
    plain = name.strip().lower().replace("-", "_").replace(" ", "_")
    plain = ALIASES.get(plain, plain)
    return plain if plain in BENCHMARK else name


def title(name: str) -> str:
    return TITLES.get(name, name)


def unseen_weathers(names: Iterable[str], source: str) -> bool:
    """Trained on the benchmark's clear days, and all others are its weathers; of other data nothing is known."""
    return source == SOURCE and {SOURCE} < set(names) <= set(BENCHMARK)


def ordered(names: Iterable[str]) -> list[str]:
    """Source, the four targets, then any other domain in the order given."""
    names = list(dict.fromkeys(names))
    return [name for name in BENCHMARK if name in names] + [name for name in names if name not in BENCHMARK]


def find_source(names: Iterable[str], asked: str | None = None) -> str:
    """The domain a detector was trained on: the one asked for, else daytime_clear, else the first that was given."""
    names = list(names)
    if not names:
        raise ValueError("the data holds no images, so there is nothing to score; pack it again")
    if asked is not None:
        if canonical(asked) not in names:
            raise ValueError(f"--source {asked}: the data holds the domains {', '.join(names)}; name one of these")
        return canonical(asked)
    return SOURCE if SOURCE in names else names[0]

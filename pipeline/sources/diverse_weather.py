"""The diverse-weather benchmark (Single-DGOD, Wu and Deng 2022): folders, scored parts, published counts."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pipeline.sources.voc import find_voc, list_splits

FORMAT = "voc"
CLASSES = ("bus", "bike", "car", "motor", "person", "rider", "truck")

# Folder spellings met in the wild, compared without case and with '-' read as '_'.
# Night-Clear and night_sunny are one domain.
ALIASES = {
    "daytime_clear": ("daytime_clear", "daytime_sunny", "daytime_sunny/daytime_clear"),
    "night_sunny": (
        "night_sunny",
        "night_clear",
        "night_sunny/night_sunny",
        "night_clear/night_clear",
        "night_clear/night_sunny",
    ),
    "dusk_rainy": ("dusk_rainy", "dusk_rainy/dusk_rainy"),
    "night_rainy": ("night_rainy", "night_rainy/night_rainy"),
    "daytime_foggy": ("daytime_foggy", "daytime_foggy/daytime_foggy"),
}


@dataclass(frozen=True)
class Published:
    """Counts of a scored part in the literature; `objects` in the order of CLASSES."""

    images: int
    objects: tuple[int, ...] | None


PUBLISHED = {
    "daytime_clear_train": Published(19395, None),
    "daytime_clear_test": Published(8313, (1738, 1046, 95339, 537, 12309, 787, 5029)),
    "night_sunny_train": Published(26158, (2012, 1410, 241616, 665, 17566, 841, 4853)),
    "dusk_rainy_train": Published(3501, (820, 322, 34240, 110, 5144, 169, 2235)),
    "night_rainy_train": Published(2494, (248, 121, 21655, 49, 1532, 71, 499)),
    "daytime_foggy_train": Published(3775, (554, 4920, 33392, 911, 21530, 2363, 736)),
}


def _spelled(name: str) -> str:
    return name.lower().replace("-", "_").replace(" ", "_")


def find_domains(root: Path) -> dict[str, Path]:
    """{domain: folder that holds its VOC2007}, when root has the benchmark's layout; {} otherwise."""
    folders: dict[str, list[Path]] = {}
    if not root.is_dir():
        return {}
    for child in sorted(path for path in root.iterdir() if path.is_dir()):
        for folder in (child, *sorted(path for path in child.iterdir() if path.is_dir() and path.name != "VOC2007")):
            spelled = "/".join(_spelled(part) for part in folder.relative_to(root).parts)
            for domain, aliases in ALIASES.items():
                if spelled in aliases and find_voc(folder):
                    folders.setdefault(domain, []).append(folder)
    for domain, several in folders.items():
        if len(several) > 1:
            raise ValueError(f"{root}: {', '.join(map(str, several))} are all {domain}; keep one")
    return {domain: folders[domain][0] for domain in ALIASES if domain in folders}


def scored_parts(root: Path) -> list[tuple[str, str, Path, str]]:
    """[(name such as night_sunny_train, domain, folder, split)]: train and test lists of every domain that is there."""
    parts: list[tuple[str, str, Path, str]] = []
    for domain, folder in find_domains(root).items():
        voc = find_voc(folder)
        assert voc is not None
        parts += [
            (f"{domain}_{split}", domain, folder, split) for split in ("train", "test") if split in list_splits(voc)
        ]
    return parts


def compare(name: str, num_images: int, objects: Mapping[str, int]) -> list[str]:
    """Lines that set our counts beside the published ones; [] without published counts or with other classes."""
    published = PUBLISHED.get(name)
    if published is None or set(objects) != set(CLASSES):
        return []
    rows = [("images", num_images, published.images)]
    if published.objects is not None:
        rows += [(label, objects[label], count) for label, count in zip(CLASSES, published.objects, strict=True)]
        rows.append(("all objects", sum(objects.values()), sum(published.objects)))
    differ = [f"{label} {ours} (published {theirs})" for label, ours, theirs in rows if ours != theirs]
    if not differ:
        what = "all counts equal those" if published.objects else "the number of images equals the one"
        return [f"{name}: {what} published for the benchmark"]
    return [f"{name}: DIFFERS from the counts published for the benchmark: " + ", ".join(differ)]

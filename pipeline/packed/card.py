"""dataset.json, the card of a packed dataset: what it holds, how it was made, checksums; and the report made of it."""

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.files.own import ANY, SHA256, Each, OneOf, Text, Whole, problem_of, read_json
from pipeline.sources.annotated import class_name

FORMAT = "fairweather-packed"
VERSION = 1
FIX = "copy it again, or pack the dataset anew into an empty folder (python -m pipeline.pack)"
SMALL, LARGE = 32**2, 96**2  # COCO's limits of the box area, in pixels of the original picture
BUCKETS = ("small", "medium", "large", "ignored")
SIDE, COUNT = Whole(1, 16384), Whole(0)
SHAPE = {
    "format": str,
    "version": int,
    "name?": str,  # of the output folder, as cards of before have it
    "classes": [str],
    # Images of other sensors, in the order of their channels; absent where there are none.
    "extra?": [
        {
            "name": Text("[A-Za-z][A-Za-z0-9_-]{0,39}"),
            "members": [{"name": Text("[A-Za-z][A-Za-z0-9_-]{0,39}"), "channels": OneOf((Whole(1, 1), Whole(3, 3)))}],
            "range?": (float, float),
            "raw?": bool,
        }
    ],
    "domains": Each(COUNT),
    "num_images": COUNT,
    "num_images_without_objects": COUNT,
    "max_boxes": COUNT,
    "objects": Each(dict.fromkeys(BUCKETS, COUNT)),
    "original_sizes": Each(COUNT),
    "num_original_sizes": COUNT,
    "canvases": {"landscape?": (SIDE, SIDE), "portrait?": (SIDE, SIDE)},
    "encoding": {
        "short_side": SIDE,
        "long_side": SIDE,
        "quality": Whole(1, 100),
        "chroma": Text("4:2:0|4:2:2|4:4:4"),
        "raw": bool,
    },
    "source": Each(ANY),
    "skipped": Each(COUNT),
    "fingerprint": ANY,
    "index": {"file": Text(r"index\.parquet"), "bytes": COUNT, "sha256": SHA256},
    "shards": [{"file": Text(r"shard-\d{6,9}\.tar"), "bytes": COUNT, "images": COUNT, "sha256": SHA256}],
    "beton": OneOf((None, {"file": str, "bytes": COUNT, "head": COUNT, "tail": COUNT, "structure_sha256": SHA256})),
    "weights?": bool,  # the index has a weight for every box; none: 1 each
    "checksum?": SHA256,  # of the rest
}


def checksum_of(card: dict[str, Any]) -> str:
    """Of everything else in a card, however it is laid out."""
    content = {name: value for name, value in card.items() if name != "checksum"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def card_bytes(card: dict[str, Any]) -> bytes:
    """The content of dataset.json, with its own checksum."""
    return json.dumps(card | {"checksum": checksum_of(card)}, indent=1).encode()


def read_card(folder: Path) -> dict[str, Any]:
    """The content of dataset.json, every value checked. Version 1 had no checksum at first."""
    path = folder / "dataset.json"
    card = read_json(path, {"format": str, "version": int}, FIX)
    if (card["format"], card["version"]) != (FORMAT, VERSION):
        raise ValueError(f"{path} has format {card['format']} version {card['version']}, expected {FORMAT} {VERSION}")
    problem = problem_of(card, SHAPE)
    if unknown := sorted(card.keys() - {name.removesuffix("?") for name in SHAPE}):
        problem = f"it has {unknown}, which this version does not know"
    if problem is None and "checksum" in card and card["checksum"] != checksum_of(card):
        problem = "it is damaged (its checksum differs)"
    if problem is None:
        try:
            for name in (*card["classes"], *card["domains"], *card["original_sizes"], *card["skipped"]):
                class_name(name, "the name")
        except ValueError as error:
            problem = str(error)
    if problem is not None:
        raise ValueError(f"{path}: {problem}; {FIX}")
    return card


def orientation(h: int, w: int) -> str:
    return "landscape" if w >= h else "portrait"


def tight_canvases(heights_N: np.ndarray, widths_N: np.ndarray) -> dict[str, list[int]]:
    """{orientation: [H, W]} for the orientations that occur: around all their images, rounded up to multiples of 32."""
    canvases = {}
    wide_N = widths_N >= heights_N
    for name, chosen_N in (("landscape", wide_N), ("portrait", ~wide_N)):
        if chosen_N.any():
            canvases[name] = [int(-(-sides_N[chosen_N].max() // 32) * 32) for sides_N in (heights_N, widths_N)]
    return canvases


def count_objects(index: pa.Table, classes: Sequence[str]) -> dict[str, dict[str, int]]:
    """{class: {small, medium, large, ignored}}; ignored objects count there alone."""
    labels = index["labels"].combine_chunks().flatten().to_numpy()
    ignore = index["ignore"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
    boxes = index["original_boxes"].combine_chunks().flatten().flatten().to_numpy().reshape(-1, 4).astype(np.float64)
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    bucket = np.where(ignore, 3, np.where(area < SMALL, 0, np.where(area < LARGE, 1, 2)))
    counts = np.zeros((len(classes) + 1, len(BUCKETS)), np.int64)
    np.add.at(counts, (labels, bucket), 1)
    return {name: dict(zip(BUCKETS, map(int, row), strict=True)) for name, row in zip(classes, counts[1:], strict=True)}


def build_card(
    index: pa.Table,
    index_file: dict[str, Any],
    shards: list[dict[str, Any]],
    classes: Sequence[str],
    encoding: dict[str, Any],
    source: dict[str, Any],
    skipped: dict[str, int],
    fingerprint: dict[str, Any],
    extra: list[dict[str, Any]],
) -> dict[str, Any]:
    heights, widths = index["height"].to_numpy(), index["width"].to_numpy()
    lengths = np.diff(index["labels"].combine_chunks().offsets.to_numpy())
    originals = Counter(zip(index["original_width"].to_pylist(), index["original_height"].to_pylist(), strict=True))
    return {
        "format": FORMAT,
        "version": VERSION,
        "classes": list(classes),
        **({"extra": extra} if extra else {}),
        "domains": dict(sorted(Counter(index["domain"].to_pylist()).items())),
        "num_images": len(index),
        "num_images_without_objects": int((lengths == 0).sum()),
        "max_boxes": int(lengths.max(initial=0)),
        "objects": count_objects(index, classes),
        "original_sizes": {f"{w}x{h}": count for (w, h), count in originals.most_common(10)},
        "num_original_sizes": len(originals),
        "canvases": tight_canvases(heights, widths),
        "encoding": encoding,
        "source": source,
        "skipped": skipped,
        "fingerprint": fingerprint,
        "index": index_file,
        "shards": shards,
        "beton": None,
    }


def describe_modality(modality: dict[str, Any]) -> str:
    members = ", ".join(member["name"] for member in modality["members"])
    channels = sum(member["channels"] for member in modality["members"])
    limits = " of values from {:g} to {:g}".format(*modality["range"]) if "range" in modality else ""
    raw = ", without loss" if modality.get("raw") else ""
    return f"{modality['name']} ({members}), {channels} {'channel' if channels == 1 else 'channels'}{limits}{raw}"


def report(card: dict[str, Any], name: str) -> str:
    """The data report: counts by class and size bucket, picture sizes, what was skipped."""
    classes, objects = card["classes"], card["objects"]
    width = max([5, *map(len, classes)])
    num_bytes = sum(shard["bytes"] for shard in card["shards"])
    canvases = ", ".join(f"{which} {h}x{w}" for which, (h, w) in card["canvases"].items())
    total = {bucket: sum(objects[label][bucket] for label in classes) for bucket in BUCKETS}
    lines = [
        f"{name}: {card['num_images']} images ({card['num_images_without_objects']} without objects), "
        f"{num_bytes / 1e6:.1f} MB, {num_bytes / max(card['num_images'], 1) / 1e3:.1f} kB an image; "
        f"canvas (h x w) {canvases}",
        f"  domains: {', '.join(f'{domain} {count}' for domain, count in card['domains'].items())}",
        *(f"  extra: {describe_modality(modality)}" for modality in card.get("extra", ())),
        "  original sizes: "
        + ", ".join(f"{size} {count}" for size, count in card["original_sizes"].items())
        + (f" and {card['num_original_sizes'] - 10} more" if card["num_original_sizes"] > 10 else ""),
        f"  {'class':{width}} {'all':>8} {'small':>8} {'medium':>8} {'large':>8} {'ignored':>8}"
        "   (small < 32x32, large >= 96x96 original pixels)",
    ]
    for label, row in [*((label, objects[label]) for label in classes), ("all", total)]:
        lines.append(f"  {label:{width}} {sum(row.values()):8d} " + " ".join(f"{row[bucket]:8d}" for bucket in BUCKETS))
    skipped = {what: count for what, count in card["skipped"].items() if count}
    lines.append("  skipped: " + (", ".join(f"{what} {count}" for what, count in skipped.items()) or "nothing"))
    return "\n".join(lines)

"""dataset.json, the card of a packed dataset: what it holds, how it was made, checksums; and the report made of it."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

FORMAT = "fairweather-packed"
VERSION = 1
SMALL, LARGE = 32**2, 96**2  # COCO's limits of the box area, in pixels of the original picture
BUCKETS = ("small", "medium", "large", "ignored")


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
    name: str,
    index: pa.Table,
    index_file: dict[str, Any],
    shards: list[dict[str, Any]],
    classes: Sequence[str],
    encoding: dict[str, Any],
    source: dict[str, Any],
    skipped: dict[str, int],
    fingerprint: dict[str, Any],
) -> dict[str, Any]:
    heights, widths = index["height"].to_numpy(), index["width"].to_numpy()
    lengths = np.diff(index["labels"].combine_chunks().offsets.to_numpy())
    originals = Counter(zip(index["original_width"].to_pylist(), index["original_height"].to_pylist(), strict=True))
    return {
        "format": FORMAT,
        "version": VERSION,
        "name": name,
        "classes": list(classes),
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


def report(card: dict[str, Any]) -> str:
    """The data report: counts by class and size bucket, picture sizes, what was skipped."""
    classes, objects = card["classes"], card["objects"]
    width = max([5, *map(len, classes)])
    num_bytes = sum(shard["bytes"] for shard in card["shards"])
    canvases = ", ".join(f"{name} {h}x{w}" for name, (h, w) in card["canvases"].items())
    total = {bucket: sum(objects[name][bucket] for name in classes) for bucket in BUCKETS}
    lines = [
        f"{card['name']}: {card['num_images']} images ({card['num_images_without_objects']} without objects), "
        f"{num_bytes / 1e6:.1f} MB, {num_bytes / max(card['num_images'], 1) / 1e3:.1f} kB an image; "
        f"canvas (h x w) {canvases}",
        f"  domains: {', '.join(f'{name} {count}' for name, count in card['domains'].items())}",
        "  original sizes: "
        + ", ".join(f"{size} {count}" for size, count in card["original_sizes"].items())
        + (f" and {card['num_original_sizes'] - 10} more" if card["num_original_sizes"] > 10 else ""),
        f"  {'class':{width}} {'all':>8} {'small':>8} {'medium':>8} {'large':>8} {'ignored':>8}"
        "   (small < 32x32, large >= 96x96 original pixels)",
    ]
    for name, row in [*((name, objects[name]) for name in classes), ("all", total)]:
        lines.append(f"  {name:{width}} {sum(row.values()):8d} " + " ".join(f"{row[bucket]:8d}" for bucket in BUCKETS))
    skipped = {what: count for what, count in card["skipped"].items() if count}
    lines.append("  skipped: " + (", ".join(f"{what} {count}" for what, count in skipped.items()) or "nothing"))
    return "\n".join(lines)

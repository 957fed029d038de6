"""A packed dataset translated picture by picture, and which of its objects vanished on the way."""

from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch

from eval.detecting.detect import check_inputs, make_batch, match_classes, read_extra, read_image, seen_by
from eval.translate_options import TranslateOptions
from model.api import Detector
from model.translation.build import Generator, load_generator
from model.translation.pictures import translate
from model.weights.checkpoint import load_detector
from model.weights.files import resolve_checkpoint
from pipeline.command.console import counted, describe_hardware, say
from pipeline.command.ranks import World
from pipeline.files.own import checksum
from pipeline.files.pixels import decode_packed, encode
from pipeline.loading.mixture import warn_of_other_sides
from pipeline.packed.derive import Objects, check_place, derive
from pipeline.packed.reader import PackedDataset
from pipeline.sources.annotated import class_name
from pipeline.views import STRIDE

OVERLAP = 0.5  # of a detection with an object that it finds
Vanished = Callable[[int, np.ndarray, np.ndarray], np.ndarray]  # row, original, translation -> vanished_N


def translate_dataset(options: TranslateOptions, world: World) -> None:
    if world.size > 1:
        raise ValueError("python -m eval.translate works in one process; leave out torchrun")
    torch.backends.cudnn.deterministic = True  # the same bytes again
    generator, card = load_generator(options.run, world.device)
    with PackedDataset(options.data) as dataset:
        check_place(dataset, options.out)
        domains = {
            name: class_name(options.domain or f"{name}_to_{target_of(card.extra)}", "the new domain's name")
            for name in dataset.domains
        }
        origin: dict[str, Any] = {
            "generator": checksum(resolve_checkpoint(options.run) / "model.safetensors"),
            "domains": domains,
            "device": world.device.type,
        }
        vanished = None
        if options.detector is not None:
            detector, other = load_detector(options.detector, world.device)
            labels = match_classes(other.classes, dataset.classes, {}, allow_others=True)
            check_inputs(detector.config, dataset, f"--detector {options.detector}")
            vanished = find_vanished(dataset, detector, labels, options.seen, options.gone)
            path = options.detector
            weights = path if path.is_file() else resolve_checkpoint(path) / "model.safetensors"
            origin |= {"detector": checksum(weights), "seen": options.seen, "gone": options.gone}
        warn(options, card.extra, dataset)
        say(describe_hardware())
        derive(dataset, options.out, range(len(dataset)), origin, redraw(dataset, generator, domains, vanished),
               dataset.weighted)  # fmt: skip
        if options.detector is not None:
            say_vanished(dataset, options)


def target_of(extra: dict[str, Any]) -> str:
    """What the target is called: its domain, or its dataset where it has several."""
    domains = extra.get("target_domains", [])
    return domains[0] if len(domains) == 1 else str(extra.get("target", "other"))


def warn(options: TranslateOptions, extra: dict[str, Any], dataset: PackedDataset) -> None:
    """Where the pictures are not like those that the generator learned from."""
    warn_of_other_sides(str(options.run), extra, dataset)
    if others := sorted(set(dataset.domains) - set(extra.get("source_domains", []))):
        say(f"warning: {options.run} learned from other domains than {', '.join(others)} of {dataset.path}")


def redraw(
    dataset: PackedDataset, generator: Generator, domains: dict[str, str], vanished: Vanished | None
) -> Callable[[Sequence[int]], list[Objects]]:
    quality, chroma, raw = (dataset.info["encoding"][name] for name in ("quality", "chroma", "raw"))

    def one(row: int) -> Objects:
        original = read_image(dataset, row)
        data = encode(translate(generator, original)[0], quality, chroma, raw)
        boxes_N4, labels_N, ignore_N = dataset.original_target(row)
        if vanished is not None:
            # As it will be read, not as it was before it was encoded.
            ignore_N = ignore_N | vanished(row, original, decode_packed(memoryview(data)))
        weight_N = dataset.box_weights(row) if dataset.weighted else None
        return Objects(boxes_N4, labels_N, ignore_N, weight_N, data, domains[dataset.domain_of(row)])

    def annotate(rows: Sequence[int]) -> list[Objects]:
        """Each picture on one thread, several at a time: with more threads a convolution adds in another order."""
        threads = torch.get_num_threads()
        on_cpu = next(generator.parameters()).device.type == "cpu"
        torch.set_num_threads(1)
        try:
            with ThreadPoolExecutor(threads if on_cpu else 1) as pool:
                return list(pool.map(one, rows))
        finally:
            torch.set_num_threads(threads)

    return annotate


def find_vanished(
    dataset: PackedDataset, detector: Detector, label_map: np.ndarray, seen: float, gone: float
) -> Vanished:
    """Objects with a score of `seen` or more in the original and below `gone` in the translation.

    An object's score is the highest of the detections of its class that overlap it by OVERLAP.
    """
    device, names = next(detector.parameters()).device, tuple(detector.config.extra_inputs)
    detector.eval()

    def vanished(row: int, original: np.ndarray, translation: np.ndarray) -> np.ndarray:
        boxes_N4, labels_N, _ = dataset.target(row)
        if not len(labels_N):
            return np.zeros(0, bool)
        canvas = tuple(-(-side // STRIDE) * STRIDE for side in original.shape[:2])
        extra = [read_extra(dataset, row, names)] * 2 if names else ()
        batch = make_batch([original, translation], [0, 1], canvas, device, extra=extra)
        with torch.no_grad():
            found = detector.detect(*seen_by(detector.config, batch, torch.float32))
        scores_2N = [
            best_scores(boxes_N4, labels_N, boxes_D4, scores_D, labels_D, label_map)
            for boxes_D4, scores_D, labels_D in zip(
                *(value.cpu().numpy() for value in (found.boxes_BD4, found.scores_BD, found.labels_BD)), strict=True
            )
        ]
        return (scores_2N[0] >= seen) & (scores_2N[1] < gone)

    return vanished


def best_scores(
    boxes_N4: np.ndarray, labels_N: np.ndarray, found_D4: np.ndarray, scores_D: np.ndarray, labels_D: np.ndarray,
    label_map: np.ndarray,
) -> np.ndarray:  # fmt: skip
    """Of each object; 0 where nothing of its class overlaps it."""
    low_ND2 = np.maximum(boxes_N4[:, None, :2], found_D4[None, :, :2])
    high_ND2 = np.minimum(boxes_N4[:, None, 2:], found_D4[None, :, 2:])
    shared_ND = np.clip(high_ND2 - low_ND2, 0, None).prod(-1)
    area_N, area_D = ((boxes[:, 2:] - boxes[:, :2]).prod(-1) for boxes in (boxes_N4, found_D4))
    union_ND = area_N[:, None] + area_D - shared_ND
    fits_ND = (shared_ND >= OVERLAP * union_ND) & (label_map[labels_D.astype(np.int64)] == labels_N[:, None])
    return np.where(fits_ND & (scores_D > 0), scores_D, 0).max(axis=1, initial=0)


def say_vanished(dataset: PackedDataset, options: TranslateOptions) -> None:
    """Counted in what was written, so that a continued run counts all of it."""
    lost: Counter[str] = Counter()
    total = 0
    with PackedDataset(Path(options.out)) as made:
        for row in range(len(made)):
            before, after = dataset.target(row)[2], made.target(row)[2]
            total += int((~before).sum())
            lost.update(dataset.classes[label - 1] for label in made.target(row)[1][after & ~before].tolist())
    by_class = ", ".join(f"{name} {count}" for name, count in lost.most_common())
    say(
        f"{lost.total()} of {counted(total, 'object')} vanished (score of {options.seen:g} or more in the original, "
        f"below {options.gone:g} in the translation) and are ignored{f': {by_class}' if by_class else ''}"
    )

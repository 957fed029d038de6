"""Whole detectors: weights remade from their rule, images through backbone, pyramid, head and detection."""

import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from kernels.launch.resize import DEVIATION, MEAN
from model.api import Detector, Outputs, Want
from model.backbones.pixels import convert_pixels
from model.faster_rcnn.detector import FasterRcnn
from model.weights.checkpoint import load_detector
from train.golden.cases import EXACT, OUTPUT, Bound, Case, Check
from train.golden.infer import compare_detections, real_detections

INPUT = Bound("each", 1e-5)
MAP = Bound("relative", 1e-4)  # of samples: sums over thousands of products, layer upon layer


def make_weights(case: Case) -> dict[str, Tensor]:
    """float32(mean + std * z), z normal by NumPy's PCG64 seeded with crc32(name) + weight_seed."""
    explicit, seed = case.facts["explicit_values"], case.facts["weight_seed"]
    state = {}
    for entry in case.facts["state_dict"]:
        name, shape = entry["name"], entry["shape"]
        if name in explicit:
            state[name] = torch.tensor(explicit[name]).reshape(shape)
        elif entry["kind"] != "default":
            draw = np.random.Generator(np.random.PCG64(zlib.crc32(name.encode()) + seed)).standard_normal(shape)
            state[name] = torch.from_numpy(np.asarray(entry["mean"] + entry["std"] * draw, np.float32).reshape(shape))
    return state


def normalise(image_HW3: Tensor, canvas: tuple[int, int]) -> Tensor:
    """(1, 3, H, W) as our detectors are fed: normalised, zero right of and below the image."""
    mean_3, deviation_3 = torch.tensor(MEAN) * 255, torch.tensor(DEVIATION) * 255
    image_3HW = ((image_HW3.float() - mean_3) / deviation_3).permute(2, 0, 1)
    height, width = image_3HW.shape[1:]
    return F.pad(image_3HW, (0, canvas[1] - width, 0, canvas[0] - height))[None]


def to_map(rows_BN: Tensor, size: tuple[int, int]) -> Tensor:
    """(B, h * w * A, width) -> (B, A * width, h, w), as the original's maps are sampled."""
    return rows_BN.reshape(rows_BN.shape[0], *size, -1).permute(0, 3, 1, 2)


def compare_samples(case: Case, quantity: str, maps: list[Tensor], image: int, first: int = 0) -> Iterator[Check]:
    for level, level_map in enumerate(maps, start=first):
        index = case[f"{quantity}.{level}.{image}.idx"].long()
        yield Check(quantity, level_map.flatten()[index], case[f"{quantity}.{level}.{image}.val"], MAP)


def as_text(value: Any) -> str:
    """As mmengine writes a configuration."""
    if isinstance(value, dict):
        return f"dict({', '.join(f'{name}={as_text(item)}' for name, item in value.items())})"
    if isinstance(value, list):
        return f"[{', '.join(map(as_text, value))}]"
    return repr(value)


def read_detector(case: Case) -> Detector:
    """Write the checkpoint that mmdetection would publish, and read it as any other."""
    num_classes = case.facts["num_classes"]
    classes = tuple(f"class {number}" for number in range(num_classes))
    meta = {"cfg": f"model = {as_text(case.facts['model_config'])}\n", "dataset_meta": {"classes": classes}}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"{case.name}.pth"
        torch.save({"meta": meta, "state_dict": make_weights(case)}, path)
        detector, card = load_detector(path)
    if card.classes != classes:
        raise ValueError(f"{case.title}: the classes of the file were read as {card.classes}")
    return detector


def compare_rows(
    case: Case, quantity: str, levels: tuple[Tensor, ...], sizes: list[tuple[int, int]], image: int
) -> Iterator[Check]:
    maps = [to_map(level, size) for level, size in zip(levels, sizes, strict=True)]
    yield from compare_samples(case, quantity, maps, image)


def compare_regions(case: Case, detector: FasterRcnn, out: Outputs, image: int) -> Iterator[Check]:
    """Proposals as a set, then the box head on the original's, whose order its samples are in."""
    assert out.rois is not None
    boxes_P4 = case[f"proposals.{image}"]
    ours_P4 = out.rois.boxes_BR4[0][out.rois.real_BR[0]]
    yield Check("proposals.count", torch.tensor(len(ours_P4)), torch.tensor(len(boxes_P4)), EXACT)
    # Relative: an error of a delta counts as many pixels as its anchor has.
    distance_PP = torch.cdist(ours_P4, boxes_P4, p=torch.inf)
    yield Check("proposals.boxes", ours_P4[distance_PP.argmin(0)], boxes_P4, OUTPUT)
    yield Check("proposals.boxes", ours_P4, boxes_P4[distance_PP.argmin(1)], OUTPUT)
    rois = detector.place(boxes_P4[None], torch.ones(1, len(boxes_P4), dtype=torch.bool))
    with torch.no_grad():
        crops = detector.crops(out.neck, rois)
        logits_BRK, deltas_BRK4 = detector.box_head(out.neck, rois)
    # The background is their last class, and has no box.
    found = {"roi_feats": crops, "roi_cls": logits_BRK[0].roll(-1, 1), "roi_reg": deltas_BRK4[0, :, 1:].flatten(1)}
    for quantity, value in found.items():
        index = case[f"{quantity}.{image}.idx"].long()
        yield Check(quantity, value.flatten()[index], case[f"{quantity}.{image}.val"], MAP)


def run_full(case: Case) -> Iterator[Check]:
    detector = read_detector(case)
    inputs = []
    for image, size in enumerate(case.facts["image_sizes_hw"]):
        sizes_B2 = torch.tensor([size])
        inputs.append(normalise(case[f"image.{image}"], (-(-size[0] // 32) * 32, -(-size[1] // 32) * 32)))
        seen = convert_pixels(inputs[-1], sizes_B2, detector.config)
        if f"input.{image}" in case:
            yield Check("input", seen, case[f"input.{image}"], INPUT)
        else:
            index = case[f"input.{image}.idx"].long()
            yield Check("input", seen.flatten()[index], case[f"input.{image}.val"], INPUT)
        with torch.no_grad():
            stages = list(detector.get_submodule("backbone.body")(seen).values())
            num = detector.config.rpn_post_nms_test if isinstance(detector, FasterRcnn) else 0
            out = detector.look(inputs[-1], sizes_B2, Want(dense=True, rois=num, found=True))
        assert out.logits is not None
        assert out.boxes is not None
        sizes = [(level.shape[-2], level.shape[-1]) for level in out.neck]
        first = 0 if f"backbone.{len(stages)}.{image}.idx" not in case else 1
        yield from compare_samples(case, "backbone", stages, image, first=first)
        yield from compare_samples(case, "fpn", list(out.neck), image)
        if isinstance(detector, FasterRcnn):
            yield from compare_rows(case, "rpn_cls", out.logits, sizes, image)
            yield from compare_rows(case, "rpn_reg", out.boxes, sizes, image)
            yield from compare_regions(case, detector, out, image)
        else:
            yield from compare_rows(case, "cls", out.logits, sizes, image)
            yield from compare_rows(case, "reg", out.boxes, sizes, image)
            if out.quality is not None:
                yield from compare_rows(case, "ctr", out.quality, sizes, image)
        assert out.found is not None
        yield from compare_detections("detections", case, "det", image, real_detections(out.found, 0))
    if "batch_det.boxes.0" in case:
        canvas = tuple(case.facts["batch_input_shape"][-2:])
        batch = [F.pad(one, (0, canvas[1] - one.shape[-1], 0, canvas[0] - one.shape[-2])) for one in inputs]
        found = detector.detect(torch.cat(batch), torch.tensor(case.facts["image_sizes_hw"]))
        for image in range(len(inputs)):
            yield from compare_detections("together", case, "batch_det", image, real_detections(found, image))

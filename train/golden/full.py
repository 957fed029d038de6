"""Whole detectors: weights remade from their rule, images through backbone, pyramid, head and detection."""

import zlib
from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from kernels.launch.resize import DEVIATION, MEAN
from model.api import Want
from model.build import new_detector
from model.dense.detector import DenseDetector
from model.weights.mmdetection import Unsupported, detector_config, rename_detector
from train.golden.cases import Bound, Case, Check, NotRunnable
from train.golden.infer import compare_detections, real_detections

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


def run_full(case: Case) -> Iterator[Check]:
    model = case.facts["model_config"]
    if "rpn_head" in model:
        raise NotRunnable("there is no reader of mmdetection's Faster R-CNN")
    try:
        config = detector_config(model)
    except Unsupported as error:
        raise NotRunnable(str(error)) from error
    detector = new_detector(config, case.facts["num_classes"] + 1).eval()
    assert isinstance(detector, DenseDetector)
    detector.load_state_dict(rename_detector(make_weights(case)))
    inputs = []
    for image, size in enumerate(case.facts["image_sizes_hw"]):
        expected = case[f"input.{image}"]
        canvas = (expected.shape[-2], expected.shape[-1])
        if case.facts["preprocessing"]["channel_order_of_input"] == "RGB":  # caffe's input is nothing that we make
            yield Check("input", normalise(case[f"image.{image}"], canvas), expected, Bound("absolute", 1e-5))
        inputs.append(expected)  # what the original saw to the last bit, or the rounding of both would add up
        with torch.no_grad():
            stages = list(detector.backbone.body(inputs[-1]).values())
            out = detector.look(inputs[-1], torch.tensor([size]), Want(dense=True, found=True))
        assert out.logits is not None
        assert out.boxes is not None
        sizes = [(level.shape[-2], level.shape[-1]) for level in out.neck if level is not None]
        yield from compare_samples(case, "backbone", stages, image, first=1)
        yield from compare_samples(case, "fpn", [level for level in out.neck if level is not None], image)
        rows = {"cls": out.logits, "reg": out.boxes, "ctr": out.quality}
        for quantity, levels in rows.items():
            if levels is not None:
                maps = [to_map(level, level_size) for level, level_size in zip(levels, sizes, strict=True)]
                yield from compare_samples(case, quantity, maps, image)
        assert out.found is not None
        yield from compare_detections("detections", case, "det", image, real_detections(out.found, 0))
    if "batch_det.boxes.0" in case:
        canvas = tuple(case.facts["batch_input_shape"][-2:])
        batch = [F.pad(one, (0, canvas[1] - one.shape[-1], 0, canvas[0] - one.shape[-2])) for one in inputs]
        found = detector.detect(torch.cat(batch), torch.tensor(case.facts["image_sizes_hw"]))
        for image in range(len(inputs)):
            yield from compare_detections("together", case, "batch_det", image, real_detections(found, image))

"""What the benchmarks of the training step share: networks of random weights, a batch, a step, and the clock."""

import gc
import itertools
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from eval.detecting.detect import choose_dtype
from model.api import Detector
from model.backbones.frozen_norm import calibrating
from model.backbones.timm_body import PREFIX
from model.build import build_detector
from model.config import ModelConfig, small_model
from model.detectors import CONFIGS, SMALL, DetectorConfig
from model.faster_rcnn.detector import FasterRcnn
from pipeline.batch import Batch, Views
from pipeline.command.console import track
from pipeline.command.ranks import choose_device
from pipeline.views import clean_view
from train.bench.dense import DENSE
from train.config import OptimizerConfig
from train.optimizer import Optimizer
from train.record.window import Window
from train.step import Step

NUM_CLASSES = 8  # seven and the background, as in the benchmark
BOXES_PER_IMAGE = 16

Clock = Callable[[], float]
CLOCKS: dict[str, Clock] = {"elapsed": time.perf_counter, "cpu": time.process_time}  # cpu: of all threads together


class Setting(NamedTuple):
    """What is measured, as the options and the device have it."""

    device: torch.device
    canvas: tuple[int, int]
    num_images: int
    model: DetectorConfig
    dtype: torch.dtype
    steps: int  # of each variant in a round

    @property
    def facts(self) -> dict[str, Any]:
        return {
            "model": self.model.kind,
            "network": self.model.backbone,
            "trainable_layers": self.model.trainable_layers,
            "batch_size": self.num_images,
            "canvas": list(self.canvas),
            "precision": str(self.dtype).removeprefix("torch."),
        }

    @property
    def described(self) -> str:
        model, network, _, num, (height, width), precision = self.facts.values()
        return f"{model} with {network}, {num} images of {height}x{width}, {precision}"


def choose(options: Any) -> Setting:
    """options: those of train.bench."""
    device = torch.device(choose_device(options.device))
    on_gpu = device.type == "cuda"
    height, width = options.canvas or ((608, 1024) if on_gpu else (192, 352))
    if height < 32 or width < 32 or height % 32 or width % 32:
        raise ValueError(f"--canvas: got {height} {width}; both sides must be multiples of 32")
    backbone = options.backbone or ("resnet101" if on_gpu else "mobilenet_v2")
    # Speed does not depend on the weights, and random ones need no download; as many layers learn as with real ones.
    trainable = 5 if backbone == "mobilenet_v2" or backbone.startswith(PREFIX) else 3
    model = replace(configure(options.model, backbone), weights="none", norm="frozen", trainable_layers=trainable)
    return Setting(
        device,
        (height, width),
        options.batch_size or (16 if on_gpu else 8),
        model,
        choose_dtype("auto", device),
        options.steps or (20 if on_gpu else 2),
    )


def count_bytes(module: nn.Module) -> int:
    return sum(each.nbytes for each in itertools.chain(module.parameters(), module.buffers()))


def warm_up(
    make: Callable[[], Callable[[], None]], device: torch.device, shared: int = 0, unmeasured: int = 1
) -> tuple[Callable[[], None], float | None]:
    """A step after three calls, and the most GB it needs: weights, gradients, optimizer, student's view, activations.

    Counted from what the other variants hold; `shared` are the bytes that it uses of those. `unmeasured` calls come
    first, which compile. None on a CPU: a process's peak never falls, so there each variant would be given that of all
    before it.
    """
    if device.type != "cuda":
        step = make()
        time_steps(step, 3, device)
        return step, None
    gc.collect()  # what others left in cycles would be freed, and missed, in between
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated(device)
    step = make()
    time_steps(step, unmeasured, device)
    torch.cuda.reset_peak_memory_stats(device)
    time_steps(step, 3 - unmeasured, device)
    return step, round((torch.cuda.max_memory_allocated(device) - before + shared) / 1e9, 2)


def choose_clock(name: str, device: torch.device) -> Clock:
    if name == "cpu" and device.type == "cuda":
        raise ValueError("--clock is cpu, but this runs on a GPU, whose time it does not count; leave it out")
    return CLOCKS[name]


def time_rounds(
    variants: dict[str, Callable[[], None]],
    rounds: int,
    steps: int,
    device: torch.device,
    clock: Clock = time.perf_counter,
) -> dict[str, list[float]]:
    """Seconds a step, for each variant a list of rounds."""
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for _ in track(range(rounds), "rounds", rounds, "rounds"):
        for name, variant in variants.items():
            seconds[name].append(time_steps(variant, steps, device, clock))
    return seconds


def configure(kind: str, backbone: str) -> DetectorConfig:
    """The detector of that kind; with the backbone of the small recipes as narrow as theirs, but of whole depth."""
    small = backbone == "mobilenet_v2"
    if kind == ModelConfig.kind:
        return small_model() if small else ModelConfig(backbone=backbone)
    usual, narrow = DENSE.get(kind) or CONFIGS[kind](), SMALL.get(kind, SMALL["retinanet"])
    widths = [name for name in ("fpn_channels", "head_channels") if small and hasattr(usual, name)]
    return replace(usual, backbone=backbone, **{name: getattr(narrow, name) for name in widths})


def make_network(model: DetectorConfig, batch: Batch, seed: int) -> Detector:
    """Random weights whose frozen norms are calibrated to these images, so that activations neither die nor grow."""
    torch.manual_seed(seed)
    detector: Any = build_detector(model, NUM_CLASSES)
    with calibrating(detector):
        detector.to(batch.images_BHW3.device).features(clean_view(batch, torch.float32)[0][:4])
    # Scores that differ from place to place, as a trained network's do, yet are far from where sigmoid rounds to 1.
    # torchvision's order of equal scores is not defined.
    if isinstance(detector, FasterRcnn):
        nn.init.normal_(detector.rpn.head.cls_logits.weight, std=0.02)
    return detector.train()


def make_batch(num_images: int, height: int, width: int, device: torch.device) -> Batch:
    generator = torch.Generator().manual_seed(0)

    def draw(low: int, high: int, *shape: int) -> Tensor:
        return torch.randint(low, high, shape, generator=generator)

    # Smooth pictures: noise would make the corruptions' JPEG stage unusually slow.
    coarse = torch.rand(num_images, 3, height // 16, width // 16, generator=generator)
    pictures = nn.functional.interpolate(coarse, size=(height, width), mode="bilinear")
    corners_BG2 = torch.rand(num_images, BOXES_PER_IMAGE, 2, generator=generator) * torch.tensor([width, height]) * 0.8
    sides_BG2 = (torch.rand(num_images, BOXES_PER_IMAGE, 2, generator=generator) * 0.18 + 0.02) * height
    return Batch(
        images_BHW3=(pictures * 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous().to(device),
        sizes_B2=torch.tensor([[height, width]] * num_images, dtype=torch.int32),
        boxes_BG4=torch.cat((corners_BG2, corners_BG2 + sides_BG2), dim=2).to(device),
        labels_BG=draw(1, NUM_CLASSES, num_images, BOXES_PER_IMAGE).to(device),
        ignore_BG=torch.zeros(num_images, BOXES_PER_IMAGE, dtype=torch.bool, device=device),
        ids_B=torch.arange(num_images),
        epoch=0,
        seed=0,
    )


def images_of(views: Views) -> Tensor:
    """The corrupted view's, which the student sees."""
    assert views.corrupted is not None
    return views.corrupted.images_B3HW


def our_step(
    learner: Any, look: Any, names: tuple[str, ...], views: Views, cuda_graphs: bool = False
) -> Callable[[], None]:
    """learner, look: as they are or compiled."""
    parameters = {name: p for name, p in learner.named_parameters() if p.requires_grad}
    device = images_of(views).device
    window = Window((*names, "gradient_norm"), 20, device)
    step = Step(
        learner, look, parameters, [], Optimizer(parameters, OptimizerConfig()), None, window, 35.0, cuda_graphs
    )
    numbers = itertools.count()
    return lambda: step(views, next(numbers), 1e-6)


def time_steps(step: Callable[[], object], steps: int, device: torch.device, clock: Clock = time.perf_counter) -> float:
    """Seconds a step."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    started = clock()
    for _ in range(steps):
        step()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return (clock() - started) / max(steps, 1)

"""Run a detector over packed images: uint8 in, boxes in the pixels of the original images out.

Ranks each see their share of the images, and shares may be unequal: nothing is exchanged until all are done.
"""

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.distributed as dist

from eval.metrics.interchange import BOX_DECIMALS, SCORE_DECIMALS, Detections, concatenate
from model.api import Detector
from model.backbones.config import BackboneConfig
from model.backbones.pixels import join_inputs
from pipeline.batch import Batch
from pipeline.command.console import Progress
from pipeline.command.ranks import World
from pipeline.files.pixels import decode_packed
from pipeline.loading.loader import open_loader
from pipeline.packed.reader import PackedDataset
from pipeline.views import clean_extra, clean_view

Detect = Callable  # Detector.detect, possibly compiled
Prepare = Callable[[Batch], tuple[torch.Tensor, torch.Tensor]]  # a batch as the network sees it: images, sizes_B2


@dataclass(frozen=True, eq=False)
class Pass:
    """A detector that looks at a dataset: what is evaluated, on which data, by whom and how."""

    detector: Detector
    dataset: PackedDataset
    label_map: np.ndarray  # label of the data by label of the detector, see match_classes
    world: World
    batch_size: int = 8
    precision: str = "auto"
    detect: Detect | None = None  # detector.detect, compiled
    loader: str = "auto"
    threads: int | None = None

    @property
    def dtype(self) -> torch.dtype:
        return choose_dtype(self.precision, self.world.device)


@dataclass(frozen=True)
class Found:
    """What a pass over images gave: their ids, the detections, how long it took.

    `steady_images` took `steady_seconds`: those from the third batch on, when compilation and warm-up are over.
    """

    ids_N: np.ndarray
    detections: Detections
    seconds: float = 0.0
    waiting_seconds: float = 0.0
    steady_images: int = 0
    steady_seconds: float = 0.0


@contextlib.contextmanager
def evaluating(detector: torch.nn.Module) -> Iterator[None]:
    """Eval mode inside; afterwards every module is in the mode it had, and no random state was touched."""
    modes = [(module, module.training) for module in detector.modules()]
    detector.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, training in modes:
            module.training = training


def match_classes(
    model_classes: tuple[str, ...], data_classes: tuple[str, ...], renames: dict[str, str], allow_others: bool = False
) -> np.ndarray:
    """label of the data by label of the model (0: dropped). Classes meet by name, after `renames` of the model's."""
    unknown = sorted(set(renames) - set(model_classes))
    if unknown:
        raise ValueError(
            f"--map: the detector has no class {', '.join(unknown)}; its classes are {', '.join(model_classes)}"
        )
    renamed = [renames.get(name, name) for name in model_classes]
    missing = [name for name in data_classes if name not in renamed]
    others = [name for name in renamed if name not in data_classes]
    if missing or (others and not allow_others):
        raise ValueError(
            f"the detector knows the classes {', '.join(renamed)}, the data {', '.join(data_classes)}"
            + (f"; the detector lacks {', '.join(missing)}" if missing else f"; the data lacks {', '.join(others)}")
            + ". Pack the data with the detector's classes, rename with --map detector_name=data_name"
            + ("" if missing else ", or drop the detector's other classes with --allow-other-classes")
        )
    labels = [data_classes.index(name) + 1 if name in data_classes else 0 for name in renamed]
    return np.array([0, *labels], np.int64)


def check_inputs(config: BackboneConfig, dataset: PackedDataset, who: str) -> None:
    """Every image that a detector looks at must be in the data, with as many channels, scaled alike."""
    for name, channels in config.extra_inputs.items():
        if dataset.extra.get(name) != channels:
            others = ", ".join(f"{other} ({count})" for other, count in dataset.extra.items()) or "pictures only"
            raise ValueError(
                f"{who} looks at {name}, {channels} channel{'s' if channels > 1 else ''}; {dataset.path} has {others}. "
                f"Pack it again with --extra {name}, or NAME=FOLDER,FOLDER where several folders make up its channels"
            )
        has, wanted = tuple(dataset.members_of(name)), config.extra_folders.get(name)
        if wanted is not None and has != wanted:
            raise ValueError(
                f"{who} looks at {name} of {', '.join(wanted)}, in this order; {dataset.path} has it of "
                f"{', '.join(has)}. Pack it again with --extra {name}={','.join(wanted)}"
            )
        low, high = dataset.range_of(name)
        wanted_low, wanted_high = config.extra_limits.get(name, (low, high))
        if (low, high) != (wanted_low, wanted_high):
            raise ValueError(
                f"{who} looks at {name} of values from {wanted_low:g} to {wanted_high:g}; {dataset.path} has it from "
                f"{low:g} to {high:g}. Pack it again with --extra-range {name}={wanted_low:g}:{wanted_high:g}"
            )


def seen_by(
    config: BackboneConfig, batch: Batch, dtype: torch.dtype, prepare: Prepare | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """(images_BCHW, sizes_B2) as a detector takes them. What it looks at beside RGB is never changed by `prepare`."""
    images_B3HW, sizes_B2 = clean_view(batch, dtype) if prepare is None else prepare(batch)
    return join_inputs(images_B3HW, clean_extra(batch, dtype), config), sizes_B2


def detect_batches(
    detect: Detect,
    config: BackboneConfig,
    batches: Iterable[Batch],
    dataset: PackedDataset,
    label_map: np.ndarray,
    dtype: torch.dtype,
    prepare: Prepare | None = None,
) -> Iterator[tuple[np.ndarray, Detections]]:
    """For each batch, (image ids, detections). Results are read one batch late: a GPU looks at the next one meanwhile.

    config: the detector's, which says what it looks at.
    """
    pending = None
    for batch in batches:
        images_BCHW, sizes_B2 = seen_by(config, batch, dtype, prepare)
        with torch.autocast(images_BCHW.device.type, dtype, enabled=dtype != torch.float32):
            output = detect(images_BCHW, sizes_B2)
        copies, there = queue_copies(output)  # before the next batch's work is queued
        if pending is not None:
            yield to_original_pixels(*pending, dataset, label_map)
        pending = (batch.ids_B, batch.sizes_B2, copies, there)
    if pending is not None:
        yield to_original_pixels(*pending, dataset, label_map)


def queue_copies(output: Sequence[torch.Tensor]) -> tuple[Sequence[torch.Tensor], torch.cuda.Event | None]:
    """The output in pinned host memory, and the event that it is there; as it is where it lies on a CPU."""
    device = output[0].device
    if device.type != "cuda":
        return output, None
    copies = [torch.empty(value.shape, dtype=value.dtype, pin_memory=True) for value in output]
    for copy, value in zip(copies, output, strict=True):
        copy.copy_(value, non_blocking=True)
    there = torch.cuda.Event()
    there.record(torch.cuda.current_stream(device))
    return copies, there


def to_original_pixels(ids_B, sizes_B2, output, there, dataset, label_map) -> tuple[np.ndarray, Detections]:
    if there is not None:
        there.synchronize()
    ids_B = ids_B.cpu().numpy()
    boxes_BD4, scores_BD, labels_BD, count_B = (value.cpu().numpy() for value in output)
    real_B = ids_B >= 0
    real_BD = (np.arange(scores_BD.shape[1]) < count_B[:, None]) & real_B[:, None]
    rows_B = np.array([dataset.index_of(int(image_id)) if image_id >= 0 else 0 for image_id in ids_B])
    scale_B2 = np.asarray(dataset.original_sizes_N2, np.float64)[rows_B] / np.maximum(sizes_B2.cpu().numpy(), 1)
    scale_B4 = np.tile(scale_B2[:, ::-1], 2)  # x, y, x, y
    corners_D4 = (boxes_BD4.astype(np.float64) * scale_B4[:, None])[real_BD].round(BOX_DECIMALS)
    labels_D = label_map[labels_BD[real_BD].astype(np.int64)]
    sides_D2 = (corners_D4[:, 2:] - corners_D4[:, :2]).round(BOX_DECIMALS)
    kept_D = labels_D > 0
    detections = Detections(
        image_ids_D=np.broadcast_to(ids_B[:, None], real_BD.shape)[real_BD][kept_D],
        boxes_D4=np.concatenate([corners_D4[:, :2], sides_D2], axis=1)[kept_D],
        labels_D=labels_D[kept_D],
        scores_D=scores_BD[real_BD].astype(np.float64).round(SCORE_DECIMALS)[kept_D],
    )
    return ids_B[real_B], detections


def detect_dataset(
    how: Pass,
    *,
    rows: np.ndarray | None = None,
    seed: int = 0,
    prepare: Prepare | None = None,
    description: str = "",
) -> Found:
    """Detects in this rank's share of the dataset, or of its `rows`.

    `prepare` makes the network's view of a batch; without it that is the clean one. `seed` is the batches'.
    """
    dataset, rank, world, device = how.dataset, how.world.rank, how.world.size, how.world.device
    detect, config = how.detect or how.detector.detect, how.detector.config
    check_inputs(config, dataset, "the detector")
    extra = tuple(config.extra_inputs)
    started = time.monotonic()
    with contextlib.ExitStack() as stack:
        stack.enter_context(evaluating(how.detector))
        if rows is not None and len(rows) < len(dataset):
            total, reader = len(rows[rank::world]), None
            batches: Iterable[Batch] = read_batches(dataset, rows[rank::world], how.batch_size, device, seed, extra)
        else:
            reader = stack.enter_context(
                open_loader(
                    dataset,
                    how.batch_size,
                    device=device,
                    name=how.loader,
                    seed=seed,
                    rank=rank,
                    world=world,
                    shuffle=False,
                    threads=how.threads,
                    extra=extra,
                )
            )
            total, batches = -(-len(dataset) // world), reader
        quiet = rank > 0 or not description
        progress = stack.enter_context(Progress(description, total, quiet=quiet))
        ids, parts = [np.empty(0, np.int64)], [empty_detections()]
        warm = time.monotonic()
        for ids_B, detections in detect_batches(detect, config, batches, dataset, how.label_map, how.dtype, prepare):
            ids.append(ids_B)
            parts.append(detections)
            progress.advance(len(ids_B))
            if len(parts) == 2:  # the first batch is here, and the second one has been looked at
                warm = time.monotonic()
        waiting = reader.wait_seconds if reader is not None else 0.0
    ended = time.monotonic()
    steady_images = sum(len(ids_B) for ids_B in ids[3:])
    return Found(
        np.concatenate(ids),
        concatenate(parts),
        ended - started,
        waiting,
        steady_images,
        ended - warm if steady_images else 0.0,
    )


def choose_dtype(precision: str, device: str | torch.device) -> torch.dtype:
    """bfloat16 on a GPU and float32 on a CPU, unless said otherwise."""
    if precision not in ("auto", "float32", "bfloat16"):
        raise ValueError(f"precision {precision!r}: choose auto, float32 or bfloat16")
    if precision == "auto":
        precision = "bfloat16" if torch.device(device).type == "cuda" else "float32"
    return getattr(torch, precision)


def choose_compile(option: str, device: torch.device) -> bool:
    """Whether to compile: on, off, or auto, which compiles on a GPU alone."""
    return option == "on" or (option == "auto" and device.type == "cuda")


def spread(rows: np.ndarray, count: int) -> np.ndarray:
    """`count` of the rows, evenly spread; 0, or more than there are, takes all."""
    if not 0 < count < len(rows):
        return rows
    return rows[np.linspace(0, len(rows) - 1, count).round().astype(int)]


def gather(found: Found, world: int) -> Found:
    """The union of what all ranks found, on every rank."""
    if world == 1:
        return found
    parts: list[Found | None] = [None] * world
    dist.all_gather_object(parts, found)
    whole = [part for part in parts if part is not None]
    return Found(
        np.concatenate([part.ids_N for part in whole]),
        concatenate([part.detections for part in whole]),
        max(part.seconds for part in whole),
        max(part.waiting_seconds for part in whole),
        sum(part.steady_images for part in whole),
        max(part.steady_seconds for part in whole),
    )


def read_image(dataset: PackedDataset, row: int) -> np.ndarray:
    """The stored picture, RGB uint8 (h, w, 3)."""
    try:
        return decode_packed(dataset.jpeg(row), size=dataset.sizes_N2[row])
    except ValueError as error:
        raise ValueError(f"{dataset.describe(row)} {error}") from None


def lay_out(images: list[np.ndarray], channels: int, canvas: tuple[int, int]) -> torch.Tensor:
    """(B, H, W, C), each image at the top left, zero elsewhere."""
    images_BHWC = torch.zeros((len(images), *canvas, channels), dtype=torch.uint8)
    for row, image in enumerate(images):
        images_BHWC[row, : image.shape[0], : image.shape[1]] = torch.from_numpy(np.ascontiguousarray(image).copy())
    return images_BHWC


def make_batch(
    images: list[np.ndarray],
    ids: list[int],
    canvas: tuple[int, int],
    device,
    seed: int = 0,
    extra: Sequence[dict[str, np.ndarray]] = (),
) -> Batch:
    """A batch without boxes from RGB images that fit the canvas. extra: the other images of each, of equal sizes."""
    names = extra[0] if extra else {}
    others = {
        name: lay_out([other[name] for other in extra], image.shape[2], canvas).to(device)
        for name, image in names.items()
    }
    no_boxes = torch.zeros((len(images), 1), device=device)
    return Batch(
        images_BHW3=lay_out(images, 3, canvas).to(device),
        sizes_B2=torch.tensor([image.shape[:2] for image in images], dtype=torch.int32),
        boxes_BG4=no_boxes[..., None].expand(-1, -1, 4),
        labels_BG=no_boxes.long(),
        ignore_BG=no_boxes.bool(),
        ids_B=torch.tensor(ids, dtype=torch.int64),
        epoch=0,
        seed=seed,
        extra=others,
    )


def read_extra(dataset: PackedDataset, row: int, names: Sequence[str]) -> dict[str, np.ndarray]:
    """The other images of a stored picture, (h, w, C)."""
    return {name: dataset.read_extra(row, name) for name in names}


def read_batches(
    dataset: PackedDataset, rows: Iterable[int], batch_size: int, device, seed: int = 0, extra: Sequence[str] = ()
) -> Iterator[Batch]:
    """Batches of chosen images, one orientation each. For few images: decoded here, one after the other.

    The last batch of an orientation is filled up with empty rows of id -1, as a loader does: one shape a canvas.
    """
    waiting: dict[str, list[int]] = {name: [] for name in dataset.canvases}

    def make(name: str) -> Batch:
        chosen = waiting[name]
        empty = batch_size - len(chosen)
        images = [read_image(dataset, row) for row in chosen] + [np.zeros((0, 0, 3), np.uint8)] * empty
        nothing = {name: np.zeros((0, 0, dataset.extra[name]), np.uint8) for name in extra}
        others = [read_extra(dataset, row, extra) for row in chosen] + [nothing] * empty
        ids = [int(dataset.ids_N[row]) for row in chosen] + [-1] * empty
        waiting[name] = []
        return make_batch(images, ids, dataset.canvases[name], device, seed, others if extra else ())

    for row in rows:
        h, w = dataset.sizes_N2[row]
        name = "landscape" if w >= h else "portrait"
        waiting[name].append(int(row))
        if len(waiting[name]) == batch_size:
            yield make(name)
    for name in dataset.canvases:
        if waiting[name]:
            yield make(name)


def empty_detections() -> Detections:
    return Detections(np.empty(0, np.int64), np.empty((0, 4)), np.empty(0, np.int64), np.empty(0))

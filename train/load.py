"""What a run is made of before its first step: data that agree, a frozen teacher, a student, the compiled learner."""

import copy
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from eval.detecting.detect import check_inputs, choose_compile, choose_dtype
from eval.trained_on import read_pictures
from model.api import Detector
from model.build import build_detector
from model.detectors import DetectorConfig, new_detector
from model.weights.checkpoint import load_detector
from model.weights.files import complete_checkpoints, resolve_checkpoint
from model.weights.partial import start_from
from pipeline.command.console import say
from pipeline.command.ranks import World
from pipeline.command.suggest import nearest
from pipeline.files.own import checksum as file_checksum
from pipeline.loading.mixture import Mixture, warn_of_other_sides
from pipeline.packed.reader import PackedDataset
from pipeline.views import ViewMaker
from train import distributed
from train.config import Config
from train.distill import METHODS
from train.distill.method import Method
from train.record.checkpoint import read_state
from train.step import Learner, Teacher


def open_data(config: Config, world: World) -> tuple[Mixture, PackedDataset | None]:
    """Training data, one dataset or several, and, where given, validation data of the same classes."""
    if config.batch_size % world.size:
        raise ValueError(f"--batch-size {config.batch_size} does not divide over {world.size} ranks; choose a multiple")
    data = Mixture([PackedDataset(path, config.domains) for path in config.data], config.data_weights)
    for dataset in data.datasets:
        if not config.distill and dataset.unlabelled_N.all():
            raise ValueError(
                f"{dataset.path} is unlabelled: everything in its images is ignored, so there is nothing to learn. "
                "Label it first (python -m eval.pseudo_label), or let a teacher label it while training (--distill "
                "pseudo)"
            )
    for method in config.distill:
        if METHODS[type(method)].needs_unlabelled and not any(one.unlabelled_N.any() for one in data.datasets):
            raise ValueError(
                f"no image of --data is unlabelled, so --distill {method.kind} has nothing to label; add a dataset of "
                "such images (python -m pipeline.pack --format pictures) or leave the method out"
            )
    val = None if config.val is None else PackedDataset(config.val)
    if val is not None:
        check_classes(config.data[0], data.classes, config.val, val.classes)
        if not val.num_objects:
            raise ValueError(
                f"--val {config.val} has no object that counts, so no AP exists; give other images, or leave --val out"
            )
        if world.first:
            warn_of_other_sides("the run", data.sides, val)
    return data, val


def resolve_inputs(model: DetectorConfig, data: Mixture, val: PackedDataset | None) -> DetectorConfig:
    """The student's configuration with the channels and the range of each input that the data has."""
    if not model.extra_channels:
        known = [name for name in model.inputs[1:] if all(name in dataset.extra for dataset in data.datasets)]
        if missing := [name for name in model.inputs[1:] if name not in known]:
            without = next(dataset for dataset in data.datasets if missing[0] not in dataset.extra)
            raise ValueError(
                f"--model.inputs: {without.path} has no {missing[0]}{nearest(missing[0], list(without.extra))}; it has "
                f"{', '.join(('rgb', *without.extra))}. Pack it again with --extra {missing[0]}, or leave it out"
            )
        model = replace(model, extra_channels=tuple(data.datasets[0].extra[name] for name in known))
    if not model.extra_members:
        members = tuple(",".join(data.datasets[0].members_of(name)) for name in model.inputs[1:])
        model = replace(model, extra_members=members)
    if not model.extra_range:
        model = replace(model, extra_range=tuple(data.datasets[0].range_of(name) for name in model.inputs[1:]))
    for dataset in (*data.datasets, *([val] if val is not None else [])):
        check_inputs(model, dataset, "--model.inputs: the student")
    return model


def check_classes(data: Path, data_classes: tuple[str, ...], other: object, other_classes: tuple[str, ...]) -> None:
    """Numbers mean the same classes only when the lists are equal, order included."""
    if tuple(data_classes) != tuple(other_classes):
        raise ValueError(
            f"the class lists differ: {data} has {list(data_classes)}, {other} has {list(other_classes)}. "
            "Pack the data with --classes in the other's order, or give the one that belongs to it"
        )


def needs_teacher(config: Config) -> bool:
    return any(METHODS[type(method)].needs_teacher for method in config.distill)


def load_teacher(config: Config, data: Mixture, world: World) -> tuple[Detector | None, Any]:
    """The frozen teacher of a distilling run and its card."""
    if not needs_teacher(config):
        if config.teacher_policy == "average":
            raise ValueError("--teacher-policy is average, but no method of this run looks at a teacher; leave it out")
        if config.teacher is not None and config.student_init != "teacher":
            raise ValueError(
                "--teacher is given, but this run does not distil from one; use a cdfkd recipe or --distill, or leave "
                "it out"
            )
        return None, None
    if config.teacher_policy == "average":
        if world.size > 1 and not config.model.fixed_statistics:
            raise ValueError(
                "--teacher-policy is average, and each rank keeps running statistics of its own images: give "
                "--model.norm frozen, or train on one rank"
            )
        return None, None
    if config.teacher is None:
        raise ValueError("a distilling run needs a trained teacher: --teacher runs/NAME of a teacher recipe's run")
    # A file of weights may name no classes; where they are as many, they are the data's.
    classes = data.classes if config.teacher.is_file() else None
    detector, card = load_detector(config.teacher, world.device, classes)
    if world.first and classes is not None:
        say(f"the teacher {config.teacher}: its classes are those of the data: {', '.join(classes)}")
    if world.first and (step := unfinished_at(config.teacher)):
        say(f"warning: the teacher {config.teacher} is not finished: it stopped after step {step}")
    check_classes(config.data[0], data.classes, config.teacher, card.classes)
    for dataset in data.datasets:
        check_inputs(card.config, dataset, f"the teacher {config.teacher}")
    if world.first:
        warn_of_other_sides(f"the teacher {config.teacher}", card.extra, data.datasets[0])
    return detector, card


def unfinished_at(run: Path) -> int:
    """The newest step of a run that was stopped before its end; 0 for anything else."""
    saved = complete_checkpoints(run)
    try:
        state = read_state(saved[-1]) if saved else None
    except (ValueError, OSError):  # damaged, older or just removed: only a warning is at stake
        return 0
    return 0 if state is None or state["finished"] else state["step"]


def average_teacher(student: Detector) -> Detector:
    """A network that shares the student's buffers; `share_average` gives it the moving average as its weights."""
    teacher = copy.deepcopy(student)
    for own, theirs in zip(teacher.modules(), student.modules(), strict=True):
        own._buffers = theirs._buffers
    return teacher


def share_average(teacher: Detector, average: dict[str, Tensor]) -> None:
    """From now on the teacher's weights are the moving average's own memory, which each step updates."""
    for name, parameter in teacher.named_parameters():
        if name in average:
            parameter.data = average[name]


def checksum(path: Path) -> str:
    """Of the weights at a path that load_detector takes."""
    return file_checksum(path if path.is_file() else resolve_checkpoint(path) / "model.safetensors")


def identify(config: Config, data: Mixture) -> dict[str, str | None]:
    """What a run is continued with must be what it was begun with."""
    teacher = checksum(config.teacher) if config.teacher and needs_teacher(config) else None
    return {"data_checksum": data.checksum, "teacher_checksum": teacher}


def start_of(config: Config) -> Path | None:
    """The checkpoint that the student starts from, if it starts from one."""
    if config.student_init == "weights":
        return None
    if config.student_init != "teacher":
        return Path(config.student_init)
    if config.teacher is None:
        raise ValueError("--student-init is teacher, but no --teacher is given")
    return config.teacher


def learned_from(config: Config, newest: Path | None, world: World) -> list[set[bytes]]:
    """The pictures that the teacher and the start, or the run's own checkpoint, list; the rest is told."""
    paths = (config.teacher if needs_teacher(config) else None, newest or start_of(config))
    listed = {path: read_pictures(path) for path in paths if path is not None}
    for path, pictures in listed.items():
        if pictures is None and newest is None and world.first:
            say(f"note: {path} does not list the pictures it was trained on; evaluating on them will not be noticed")
    return [pictures for pictures in listed.values() if pictures is not None]


def make_student(config: Config, classes: tuple[str, ...], world: World, newest: Path | None = None) -> Detector:
    """New layers are drawn from the seed; the rest starts from the backbone's weights or from another checkpoint.

    newest: the run's own checkpoint to continue, which holds everything.
    """
    torch.manual_seed(config.seed)
    path = newest or start_of(config)
    # The backbone's weights, which may have to be downloaded, are only loaded where nothing replaces them.
    if path is None:
        student = build_detector(config.model, len(classes) + 1, classes)
    else:
        student = new_detector(config.model, len(classes) + 1)
        if path is newest:
            student.load_state_dict(load_detector(path, "cpu")[0].state_dict())
        else:
            started = start_from(student, path, config.model, classes, "--student-init")
            if world.first:
                say(started)
    return student.to(world.device).to(memory_format=torch.channels_last).train()


def make_methods(config: Config, student: Detector, teacher: Detector | None) -> dict[str, Method]:
    """The run's methods by name; their own layers are drawn from the seed."""
    torch.manual_seed(config.seed)
    methods = {}
    for wanted in config.distill:
        method = METHODS[type(wanted)](wanted, student, teacher, distributed.mean)
        if method.same_size and config.views.ratio_range != (1.0, 1.0):
            raise ValueError(
                f"{wanted.kind} compares locations, so both networks must see images of one size: give "
                f"--views.ratio-range 1 1 (now {config.views.ratio_range})"
            )
        unlike = getattr(wanted, "faithful", False) and not getattr(student.config, "faithful", True)
        if unlike and distributed.is_first():
            say(
                f"note: --distill.{wanted.kind.replace('_', '-')}.faithful repeats the original's sums; its heads also "
                "train candidates in the padding, which --model.faithful repeats"
            )
        # Without a weight no gradient reaches its layers, and DDP would wait for one. Layers of some terms only are
        # switched off by the method itself.
        if not any(method.weights.values()):
            method.requires_grad_(False)
        methods[wanted.kind] = method.to(next(student.parameters()).device)
    return methods


def make_learner(
    config: Config, student: Detector, teacher: Detector | None, world: World
) -> tuple[Learner, Teacher | None]:
    methods = make_methods(config, student, teacher)
    if config.distill_warmup_steps and not any(method.weights for method in methods.values()):
        raise ValueError(
            f"--distill.warmup-steps has no effect: {' and '.join(methods)} has no term with a weight; leave it out"
        )
    dtype = choose_dtype(config.precision, world.device)
    learner = Learner(student, methods, dtype, distributed.mean, config.distill_warmup_steps > 0)
    looking = None if teacher is None else Teacher(teacher, list(methods.values()), dtype)
    check_alignment(config, "student", student, learner.sees)
    if looking is not None:
        check_alignment(config, "teacher", looking.detector, (looking.sees,))
    return learner, looking


def check_alignment(config: Config, who: str, detector: Detector, sees: tuple[str, ...]) -> None:
    """What a network looks at beside RGB goes with the clean view: a downscaled one does not fit it."""
    downscaled = config.views.ratio_range != (1.0, 1.0) and set(sees) != {"clean"}
    if downscaled and detector.config.extra_inputs:
        raise ValueError(
            f"the {who} looks at {', '.join(detector.config.extra_inputs)}, which is not downscaled as its pictures "
            f"are: give --views.ratio-range 1 1 (now {config.views.ratio_range})"
        )


def extra_of(student: Detector, teacher: Teacher | None) -> tuple[str, ...]:
    """Names of what the two look at beside RGB: what has to be loaded."""
    detectors = [student] if teacher is None else [student, teacher.detector]
    return tuple(dict.fromkeys(name for detector in detectors for name in detector.config.extra_inputs))


def trainable(learner: Learner) -> dict[str, nn.Parameter]:
    """Everything that is trained, by its name in a checkpoint: the student's own names, `method.NAME.` for the rest."""
    named = dict(learner.student.named_parameters())
    for name, method in learner.methods.items():
        named |= {f"method.{name}.{key}": value for key, value in method.named_parameters()}
    return {name: parameter for name, parameter in named.items() if parameter.requires_grad}


def compiles(config: Config, device: torch.device) -> bool:
    if config.compile == "cuda_graphs" and device.type != "cuda":
        raise ValueError("--compile is cuda_graphs, but the run is on a CPU; use --compile on, or off")
    return config.compile == "cuda_graphs" or choose_compile(config.compile, device)


def compile_both(learner: Learner, teacher: Teacher | None, mode: str, num_canvases: int) -> tuple[Any, Any]:
    """Learner and teacher as one graph each for every canvas, the learner's with its backward."""
    # Each canvas compiles once; with fullgraph, going over the limit is an error and not a slow run.
    torch._dynamo.config.recompile_limit = max(8, num_canvases)
    # Inside DDP dynamo would cut the graph at each bucket of gradients, to average one while the next is computed.
    # Uncut, all are averaged after the backward: 220 MB of a ResNet-101, by arithmetic 2 % of a step on NVLink.
    torch._dynamo.config.optimize_ddp = False
    options: dict[str, Any] = {"fullgraph": True, "dynamic": False, "mode": mode}
    look = None if teacher is None else torch.compile(teacher.__call__, **options)
    return torch.compile(learner, **options), look


def compile_detect(config: Config, student: Detector, world: World) -> Any:
    """The student's detect as one graph for every canvas, where its step is compiled too; else None."""
    return torch.compile(student.detect, fullgraph=True, dynamic=False) if compiles(config, world.device) else None


def wrap(config: Config, world: World, learner: Learner, teacher: Teacher | None, num_canvases: int) -> tuple[Any, Any]:
    """(learner, teacher), compiled where the run requests it, the learner in DDP on several ranks."""
    wrapped: Any = learner
    look: Any = teacher
    if compiles(config, world.device):
        mode = "reduce-overhead" if config.compile == "cuda_graphs" else "default"
        wrapped, look = compile_both(learner, teacher, mode, num_canvases)
    return over_ranks(wrapped, world), look


def over_ranks(module: Any, world: World) -> Any:
    """In DDP on several ranks."""
    if world.size == 1:
        return module
    with warnings.catch_warnings():
        # torch 2.14 renames broadcast_buffers; the new name does not exist in the oldest torch supported.
        warnings.simplefilter("ignore", FutureWarning)
        return nn.parallel.DistributedDataParallel(module, broadcast_buffers=False, gradient_as_bucket_view=True)


def make_views(config: Config, world: World, learner: Learner, teacher: Teacher | None) -> ViewMaker:
    """Views come in the precision that the networks compute in; the clean one only where somebody looks at it."""
    dtype = choose_dtype(config.precision, world.device)
    clean = "clean" in learner.sees or (teacher is not None and teacher.sees == "clean")
    return ViewMaker(config.views, device=world.device, dtype=dtype, clean=clean)

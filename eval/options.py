"""What `python -m eval.run` can be told."""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_type_hints

import tyro

OF_A_DETECTOR = ("classes", "map", "allow_other_classes", "batch_size", "precision", "compile", "loader", "threads")
OF_CORRUPTIONS = ("corruption_images", "originals", "corruptor")


@dataclass(frozen=True)
class EvaluationOptions:
    """Score a detector on one or more domains and write figures, detections and a report."""

    run: Annotated[Path | None, tyro.conf.Positional] = None
    """A run, a checkpoint, torchvision's or mmdetection's weights; not needed with --detections and --out."""
    data: tuple[Path, ...] = ()
    """Packed datasets, one or more domains."""
    domains: tuple[str, ...] = ()
    """Only these domains of the data: names, or patterns such as 'clear_*'; none: all."""
    compare: tuple[Path, ...] = ()
    """Runs to show beside this one, with intervals of the differences; evaluated first where they were not yet."""
    detections: tuple[Path, ...] = ()
    """Score these COCO results files, one per --data, instead of running a detector."""
    out: Path | None = None
    """Write eval/ and report.html here instead of into the run."""
    source: str | None = None
    """The domain that was trained on; daytime_clear, or the first."""
    classes: tuple[str, ...] = ()
    """Class names of weights that name none, in their order, without background."""
    map: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """Rename a class of the detector: --map motorcycle=motor, as often as needed."""
    allow_other_classes: bool = False
    """Drop detections of classes that the data does not have."""
    corruptions: Literal["none", "benchmark", "training", "all"] = "none"
    """Also measure robustness: mPC over these corruptions at severities 1 to 5, on the source domain."""
    corruption_images: int = 0
    """Images for robustness, spread evenly; 0 takes all."""
    originals: Path | None = None
    """Folder that was packed: corruptions are then made at the source images' resolution, before resizing."""
    corruptor: Literal["kernels", "imagecorruptions"] = "kernels"
    """imagecorruptions: make the corruptions with that package, one image after the other, to check ours."""
    resamples: int = 1000
    """Bootstrap resamples; 0 gives no intervals."""
    seed: int = 0
    """Seed of the resamples and of the corruptions."""
    scorer: Literal["fast", "pycocotools"] = "fast"
    """Who computes the COCO figures; both give the same numbers."""
    voc_side_offset: Literal[0, 1] = 0
    """1 counts a box's last pixel as inside for the VOC figures, as the VOC kit and some papers do."""
    batch_size: int = 8
    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    compile: Literal["auto", "on", "off"] = "auto"
    """auto: compile on a GPU."""
    loader: Literal["auto", "cpu", "dali", "ffcv"] = "auto"
    threads: int | None = None
    pictures: bool = True
    """Save example pictures for the report."""
    report: bool = True
    """Write report.html."""

    def __post_init__(self) -> None:
        for name, least in (("batch_size", 1), ("resamples", 0), ("corruption_images", 0)):
            value = getattr(self, name)
            if value < least:
                raise ValueError(f"--{name.replace('_', '-')} {value}: give {least} or more")
        if self.run is None and not (self.detections and self.out):
            missing = "--out DIR, where the results go" if self.detections else "the run or checkpoint to evaluate"
            raise ValueError(f"name {missing}; see python -m eval.run --help")
        if not self.data:
            raise ValueError("--data: name at least one packed dataset")
        given = {field.name for field in fields(self) if getattr(self, field.name) != field.default}
        for names, needed, why in (
            (
                OF_A_DETECTOR,
                not self.detections,
                "scores files: no detector runs, and category_id is the data's; leave them out",
            ),
            (
                OF_CORRUPTIONS,
                self.corruptions != "none",
                "measures no robustness; leave them out, or add --corruptions benchmark",
            ),
        ):
            idle = [f"--{name.replace('_', '-')}" for name in names if name in given]
            if idle and not needed:
                raise ValueError(f"{', '.join(idle)}: this evaluation {why}")


def as_declared(options: dict[str, Any]) -> dict[str, Any]:
    """Options as Python is given them, in the types of EvaluationOptions: paths may be text, several one or a list."""
    kinds = get_type_hints(EvaluationOptions)
    if unknown := sorted(set(options) - set(kinds)):
        raise ValueError(f"no option {', '.join(unknown)}; python -m eval.run --help lists them, there with dashes")
    result = dict(options)
    for name, value in options.items():
        if value is None:
            continue
        inner = get_args(kinds[name])
        if Ellipsis in inner:
            several = (value,) if isinstance(value, str | Path) else value
            result[name] = tuple(inner[0](item) for item in several)
        elif Path in inner:
            result[name] = Path(value)
    return result


def check_paths(options: EvaluationOptions) -> None:
    """Name a wrong path before anything heavy is imported."""
    run = options.run
    if run is not None and not options.detections:
        if not run.exists():
            raise ValueError(f"no checkpoint at {run}: give a run, a checkpoint directory or a weight file")
        if run.is_dir() and not (run / "model.json").is_file() and not (run / "checkpoints").is_dir():
            raise ValueError(f"{run}: neither model.json nor checkpoints in it; give a run or a checkpoint of one")
    for option, paths in (("compare", options.compare), ("detections", options.detections)):
        for path in paths:
            if not path.exists():
                raise ValueError(f"--{option} {path}: there is no such file or folder")
    if options.originals is not None and not options.originals.is_dir():
        raise ValueError(f"--originals {options.originals}: there is no such folder; name the one that was packed")
    for path in options.data:
        if not (path / "dataset.json").is_file():
            from pipeline.packed.reader import PackedDataset

            PackedDataset(path)  # says what is there instead

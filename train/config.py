"""The configuration of a run: frozen dataclasses, written beside the run as JSON and read back from it."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path
from typing import Any, Literal

from model.config import ModelConfig
from model.detectors import DetectorConfig
from pipeline.files.fields import to_json
from pipeline.views import ViewConfig
from train.distill import MethodConfig


@dataclass(frozen=True)
class GroupRule:
    """How some of the parameters differ from the rest."""

    rate: float = 1.0
    """Factor of the learning rate."""
    decay: float = 1.0
    """Factor of the weight decay."""

    def __post_init__(self) -> None:
        for name in ("rate", "decay"):
            value = getattr(self, name)
            if not 0 <= value < float("inf"):
                raise ValueError(f"--optimizer.GROUP.{name} must be 0 or more, got {value}")


@dataclass(frozen=True)
class OptimizerConfig:
    """The paper's SGD with momentum, or AdamW, which reaches more in a short run."""

    name: Literal["sgd", "adamw"] = "sgd"
    learning_rate: float = 0.02
    """Peak rate for a global batch of `base_batch_size`; the rate used is scaled linearly to the run's batch size."""
    base_batch_size: int = 16
    """The global batch the learning rate is meant for."""
    momentum: float = 0.9
    """Of SGD; AdamW's first beta (its second is 0.999)."""
    weight_decay: float = 1e-4
    """Added to the gradient by SGD, taken off the weights in proportion to the rate by AdamW."""
    norm: GroupRule = field(default_factory=GroupRule)
    """Scales and shifts of normalisations."""
    bias: GroupRule = field(default_factory=GroupRule)
    """Other biases."""
    new: GroupRule = field(default_factory=GroupRule)
    """The pyramid, the heads, and the methods' own layers: what starts from a random draw behind the backbone."""
    warmup_steps: int = 500
    """Steps over which the rate rises linearly from a thousandth."""
    schedule: Literal["step", "cosine", "linear"] = "step"
    """step: times 0.1 at each milestone. cosine: falls to 0 over the run. linear: to 0 from its milestone on."""
    milestones: tuple[float, ...] | None = None
    """Where the step schedule falls, as fractions of the run; none: 8/12 and 11/12, the usual 1x schedule. The
    linear schedule needs one."""
    clip_norm: float = 35.0
    """Largest norm of the whole gradient; 0 does not clip."""
    ema_decay: float = 0.0
    """Decay of a moving average of the weights that is evaluated and shipped instead of them; 0 keeps none. With
    --model.norm batch the running statistics beside it are those of the last step, not averaged."""

    def __post_init__(self) -> None:
        require(self.learning_rate > 0, "optimizer.learning_rate", "above 0", self.learning_rate)
        require(self.base_batch_size > 0, "optimizer.base_batch_size", "at least 1", self.base_batch_size)
        require(0 <= self.momentum < 1, "optimizer.momentum", "in [0, 1)", self.momentum)
        require(self.weight_decay >= 0, "optimizer.weight_decay", "0 or more", self.weight_decay)
        require(self.warmup_steps >= 0, "optimizer.warmup_steps", "0 or more", self.warmup_steps)
        require(self.clip_norm >= 0, "optimizer.clip_norm", "0 or more", self.clip_norm)
        require(0 <= self.ema_decay < 1, "optimizer.ema_decay", "in [0, 1)", self.ema_decay)
        if self.schedule == "linear":
            one = self.milestones is not None and len(self.milestones) == 1
            require(one, "optimizer.milestones", "one fraction with the linear schedule", self.milestones)
        if self.milestones is None:
            return
        named = "left out with the cosine schedule"
        require(self.schedule != "cosine", "optimizer.milestones", named, self.milestones)
        increasing = all(a < b for a, b in zip(self.milestones, self.milestones[1:], strict=False))
        inside = all(0 < milestone < 1 for milestone in self.milestones)
        require(increasing and inside, "optimizer.milestones", "rising fractions between 0 and 1", self.milestones)


@dataclass(frozen=True)
class LoaderConfig:
    """How images reach the device; none of it changes what is trained on."""

    name: Literal["auto", "cpu", "dali", "ffcv"] = "auto"
    """auto: dali on a GPU where it is installed, else cpu."""
    threads: int | None = None
    """Decoding threads per rank; none: the loader's own default."""
    prefetch: int | None = None
    """Batches made ahead; none: the loader's own default."""
    hardware_share: float | None = None
    """Share of the images that the GPU's JPEG engine decodes, with the loader dali on a GPU; none: its own default."""

    def __post_init__(self) -> None:
        for name in ("threads", "prefetch"):
            value = getattr(self, name)
            require(value is None or value > 0, f"loader.{name}", "at least 1", value)
        if self.hardware_share is not None:
            require(0 <= self.hardware_share <= 1, "loader.hardware_share", "in [0, 1]", self.hardware_share)
            named = f"left out with the loader {self.name}, which has no such engine"
            require(self.name in ("auto", "dali"), "loader.hardware_share", named, self.hardware_share)


@dataclass(frozen=True)
class Config:
    """One training run."""

    data: tuple[Path, ...]
    """Packed dataset to train on, made by `python -m pipeline.pack`, or several with the same classes."""
    out: Path
    """Run directory; the same command on it continues an interrupted run."""
    data_weights: tuple[float, ...] = ()
    """How often an image of each dataset comes in an epoch, in the order of `data`; none: once."""
    domains: tuple[str, ...] = ()
    """Train on the images of these domains of `data` alone: names, or patterns such as 'clear_*'; none: all."""
    val: Path | None = None
    """Packed dataset of the source domain on which AP is measured during training."""
    teacher: Path | None = None
    """The trained teacher of a distilling run: a run directory or a checkpoint."""
    teacher_policy: Literal["frozen", "average"] = "frozen"
    """frozen: the network of `teacher`. average: the student's own moving average (optimizer.ema_decay)."""
    student_init: str = "weights"
    """Where the student starts: weights (model.weights, the paper), teacher, or a run, a checkpoint or a file. All that
    fits is taken; the layers of other classes are drawn anew."""

    model: DetectorConfig = field(default_factory=ModelConfig)
    """The detector; on the command line --model NAME chooses its kind."""
    views: ViewConfig = field(default_factory=ViewConfig)
    """What the trained network sees of an image."""
    distill: tuple[MethodConfig, ...] = ()
    """Distillation methods; on the command line --distill NAME ... chooses them."""
    distill_warmup_steps: int = 0
    """Steps over which the weights of all methods rise linearly to their values; also --distill.warmup-steps."""
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    loader: LoaderConfig = field(default_factory=LoaderConfig)

    epochs: float = 12.0
    """Length of the run in passes over the data; 0 when `steps` says it."""
    steps: int = 0
    """Length of the run in steps; 0 when `epochs` says it."""
    batch_size: int = 16
    """Images per step over all ranks together."""
    seed: int = 0
    """Every random draw of the run (order, views, sampling, new layers) is a function of it."""

    device: Literal["auto", "cuda", "cpu"] = "auto"
    precision: Literal["auto", "bfloat16", "float32"] = "auto"
    """auto: bfloat16 autocast on a GPU, float32 without one. There, float32 convolutions take TF32, torch's default."""
    compile: Literal["auto", "on", "cuda_graphs", "off"] = "auto"
    """Compile forward, losses and backward; cuda_graphs also replays them; auto: on with a GPU, off without one."""
    repeatable: bool = False
    """On a GPU, repeat the same bits: cuDNN and the compiler take repeatable kernels instead of the fastest."""

    log: tuple[Literal["wandb", "mlflow"], ...] = ()
    """Trackers that get the numbers of the log beside TensorBoard."""
    log_every: int = 20
    """Steps between two log lines; a GPU is waited for only then."""
    save_every: int = 1000
    """Steps between two checkpoints."""
    keep: int = 2
    """Checkpoints kept besides the best one."""
    val_every: int | None = None
    """Steps between two measurements of AP on `val`, none: 2000; it is always measured at the end."""
    val_images: int = 0
    """Images of `val` used while training, 0 for all of them."""
    max_skipped: int = 10
    """Steps in a row with a loss or gradient that is not finite before the run stops; each is skipped."""
    from_step: int | None = None
    """Continue from the checkpoint of this step; later ones are set aside. None: from the newest that is sound."""
    profile: bool = False
    """Write a trace of five steps into the run directory and stop: steps 10 to 15, or, compiled, when every canvas
    has been seen."""

    def __post_init__(self) -> None:
        check_finite(to_json(self))
        require(self.seed >= 0, "seed", "0 or more", self.seed)
        require(self.batch_size > 0, "batch_size", "at least 1", self.batch_size)
        check_length(self.epochs, self.steps)
        if self.student_init != "weights" and self.model.weights not in ("none", "imagenet"):
            raise ValueError(
                f"--model.weights is {self.model.weights}, but --student-init is {self.student_init}, whose weights "
                "take their place; leave one of them out"
            )
        # The command line's own form, a field a method, comes by here too.
        kinds = [method.kind for method in self.distill] if isinstance(self.distill, tuple) else []
        if len(set(kinds)) < len(kinds):
            raise ValueError(f"--distill names {', '.join(kinds)}: a run has each method once")
        average = self.teacher_policy == "average"
        if average and (self.optimizer.ema_decay == 0 or self.teacher is not None or not self.distill):
            raise ValueError(
                "--teacher-policy is average: the student's moving average teaches a distilling run, so give "
                "--optimizer.ema-decay 0.999 and a method, and --teacher None"
            )
        if average and "pseudo" in kinds and self.student_init == "weights":
            raise ValueError(
                "--teacher-policy is average and --distill names pseudo: an untrained network finds nothing, and all "
                "unlabelled images would count as background; begin with a trained one, --student-init RUN"
            )
        require(self.distill_warmup_steps >= 0, "distill.warmup_steps", "0 or more", self.distill_warmup_steps)
        if self.distill_warmup_steps and not self.distill:
            raise ValueError(
                "--distill.warmup-steps is given, but the run has no method; leave it out or give --distill"
            )
        for name in ("log_every", "save_every", "keep"):
            require(getattr(self, name) > 0, name, "at least 1", getattr(self, name))
        require(len(set(self.log)) == len(self.log), "log", "names, each once", " ".join(self.log))
        require(self.val_every is None or self.val_every > 0, "val_every", "at least 1", self.val_every)
        require(self.max_skipped >= 0, "max_skipped", "0 or more", self.max_skipped)
        require(self.val_images >= 0, "val_images", "0 or more", self.val_images)


def check_finite(value: Any, name: str = "") -> None:
    """Of a configuration as JSON, which has no number for infinity."""
    if isinstance(value, dict):
        for key, inner in value.items():
            check_finite(inner, f"{name}.{key}" if name else key)
    elif isinstance(value, list):
        for inner in value:
            check_finite(inner, f"{name}.{inner['kind']}" if isinstance(inner, dict) else name)
    elif isinstance(value, float):
        require(isfinite(value), name, "a finite number", value)


def check_length(epochs: float, steps: int) -> None:
    require(epochs >= 0, "epochs", "0 or more", epochs)
    require(steps >= 0, "steps", "0 or more", steps)
    if (epochs > 0) == (steps > 0):
        raise ValueError(
            f"the length of a run is either --epochs (now {epochs:g}) or --steps (now {steps}): give one of them, "
            "above 0"
        )


def require(condition: bool, name: str, allowed: str, got: object) -> None:
    if not condition:
        raise ValueError(f"--{name.replace('_', '-')} must be {allowed}, got {got}")


def upgrade(values: Any) -> Any:
    """A configuration as an older version wrote it, in today's form: one method, or null for none."""
    if isinstance(values, dict) and "distill" in values and not isinstance(values["distill"], list):
        values = values | {"distill": [] if values["distill"] is None else [values["distill"]]}
    return values


# Changing these on an existing run, a translation's too, changes neither what is trained nor what its files mean. Data
# and teacher may move: their checksums are compared instead of their paths. Compiled or not, a step differs by rounding
# only.
FREE = (
    "data", "val", "teacher", "out", "loader", "compile", "repeatable", "save_every", "keep", "val_every", "val_images",
    "max_skipped", "from_step", "profile", "log", "source", "target", "pictures", "dinov2",
)  # fmt: skip


def differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """Lines "optimizer.learning_rate: 0.02 in the run, 0.01 requested" of what differs, free fields left out."""

    def walk(a: Any, b: Any, name: str) -> Iterator[str]:
        if isinstance(a, dict) and isinstance(b, dict):
            for key in sorted(a.keys() | b.keys()):
                yield from walk(a.get(key), b.get(key), f"{name}.{key}" if name else key)
        elif tagged(a) and tagged(b) and kinds(a) != kinds(b):
            yield f"{name}: {' '.join(kinds(a)) or 'none'} in the run, {' '.join(kinds(b)) or 'none'} requested"
        elif tagged(a) and tagged(b):
            by_kind = [{item["kind"]: item for item in items} for items in (a, b)]
            yield from walk(by_kind[0], by_kind[1], name)
        elif a != b:
            yield f"{name}: {a} in the run, {b} requested"

    def kinds(value: list[dict[str, Any]]) -> list[str]:
        return [item["kind"] for item in value]

    def tagged(value: Any) -> bool:
        return isinstance(value, list) and all(isinstance(item, dict) and "kind" in item for item in value)

    kept_old, kept_new = ({k: v for k, v in config.items() if k not in FREE} for config in (old, new))
    return list(walk(kept_old, kept_new, ""))

"""CMKD, cross-modality knowledge distillation: a teacher that sees more than the camera (Hnewa, Rahimpour, Miller,
Upadhyay, Radha, 2023; `Mazin-Hnewa/CMKD`).

The teacher looks at RGB and at other aligned images, such as gated near-infrared slices (--model.inputs of its own
run); the student at RGB alone. s and t are their maps of one pyramid level. Two ways to pull s to t:

    mse          L = 1/2 * mean over levels of mean((s - t)^2)
    adversarial  A discriminator D a level tells the two apart, and the student learns to fool it:
                 L = mean over levels of the mean of BCE(D(s), 0) and BCE(D(t), 1).
                 D descends L. The student gets -0.3 times the gradient of L: it climbs.

    D: 1x1 convolution to half the channels, ReLU, [max pool 2], 1x1 convolution to one, ReLU, [max pool 2],
       a linear layer to 108, ReLU, dropout 0.5, a linear layer to 1.
       Both pools at strides 4 and 8, the second at 16, none from 32 on.

Differs from the original where it must. Its first linear layers fit one canvas only, 512 x 864: here maps of any other
are averaged to the grid of `canvas`. A discriminator could tell networks apart by what they make of the padding, so it
is zero for both, and the squared error leaves it out. Where the student sees a smaller image, each image's own region
is resized to the teacher's. Means are over the global batch. Dropout is drawn from the images' keys, so that a resumed
run draws the same, and is off in evaluation; the original's never is. `faithful` gives the original's numbers.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.api import Assigned, Detector, Mean, Outputs, Want
from model.boxes.assign import draw_order
from pipeline.batch import Views
from train.distill.method import Logged, Method, levels_of, make_adapters
from train.distill.regions import cells, inside, resize

HIDDEN = 108
POOLS = {4: (True, True), 8: (True, True), 16: (False, True)}  # after the first and the second convolution
COARSEST = 32  # of the levels that teach where none are named; a Faster R-CNN's pooled one tells nothing new
STREAM = 0x6B43D9A5  # of the draws that drop


@dataclass(frozen=True)
class CmkdConfig:
    """Options of CMKD."""

    kind: ClassVar[str] = "cmkd"

    loss: Literal["mse", "adversarial"] = "mse"
    """How maps are compared: by their squared error, or by discriminators."""
    weight: float = 1.0
    strides: tuple[int, ...] = ()
    """Pyramid levels to distil, named by stride; none: every level up to 32 that both networks have once."""
    reversal: float = 0.3
    """adversarial: what the student's gradient is multiplied by, after its sign is turned."""
    dropout: float = 0.5
    """adversarial: of a discriminator's hidden layer."""
    canvas: tuple[int, int] = (512, 864)
    """adversarial: height and width that the discriminators are made for. Maps of other canvases are pooled to theirs,
    so take your data's own."""
    faithful: bool = False
    """The original's means: padding counts, each rank is on its own, dropout stays on in evaluation."""

    def __post_init__(self) -> None:
        for name in ("weight", "reversal"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"--distill.cmkd.{name} must be 0 or more, got {getattr(self, name)}")
        if list(self.strides) != sorted(set(self.strides)):
            raise ValueError(f"--distill.cmkd.strides must be rising numbers, such as 8 16 32, got {self.strides}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"--distill.cmkd.dropout must be from 0 to below 1, got {self.dropout}")
        if min(self.canvas) < 32:
            raise ValueError(f"--distill.cmkd.canvas must be a height and a width from 32, got {self.canvas}")
        if self.loss == "mse":
            usual = {name: CmkdConfig.__dataclass_fields__[name].default for name in ("reversal", "dropout", "canvas")}
            if changed := [name for name, value in usual.items() if getattr(self, name) != value]:
                raise ValueError(
                    f"--distill.cmkd.{changed[0]} is of the discriminators, which --distill.cmkd.loss mse has none of; "
                    "leave it out, or give --distill.cmkd.loss adversarial"
                )


class Discriminator(nn.Module):
    """Logits (B, 1) of one level's maps: above 0 it takes them for the teacher's."""

    def __init__(self, channels: int, width: int, hidden: int, pools: tuple[bool, bool], grid: tuple[int, int]):
        super().__init__()
        self.pools, self.grid = pools, grid
        self.first = nn.Conv2d(channels, width, 1)
        self.second = nn.Conv2d(width, 1, 1)
        self.hidden = nn.Linear(grid[0] * grid[1], hidden)
        self.answer = nn.Linear(hidden, 1)

    def forward(self, maps_BCHW: Tensor, kept_BN: Tensor | None) -> Tensor:
        """kept_BN: what each unit of the hidden layer is multiplied by; none: nothing is dropped."""
        for convolution, pool in zip((self.first, self.second), self.pools, strict=True):
            maps_BCHW = convolution(maps_BCHW).relu()
            if pool:
                maps_BCHW = F.max_pool2d(maps_BCHW, 2)
        hidden_BN = self.hidden(average_to(maps_BCHW[:, 0], self.grid).flatten(1)).relu()
        return self.answer(hidden_BN if kept_BN is None else hidden_BN * kept_BN)


def grid_of(canvas: tuple[int, int], stride: int) -> tuple[int, int]:
    """What a discriminator's pools leave of the map of a canvas; 1 at least."""
    halvings = sum(POOLS.get(stride, (False, False)))
    height, width = (max(-(-side // stride) >> halvings, 1) for side in canvas)
    return height, width


def average_to(maps_BHW: Tensor, grid: tuple[int, int]) -> Tensor:
    """As F.adaptive_avg_pool2d, by two products with matrices: on a GPU the same at every run, backward too."""
    rows_hH, columns_wW = (averages(old, new, maps_BHW) for old, new in zip(maps_BHW.shape[1:], grid, strict=True))
    return rows_hH @ (maps_BHW @ columns_wW.T)


def averages(old: int, new: int, like: Tensor) -> Tensor:
    """Row i averages the cells from floor(i * old / new) to below ceil((i + 1) * old / new)."""
    cell_N = torch.arange(old, device=like.device)
    new_n1 = torch.arange(new, device=like.device)[:, None]
    low_n1 = (new_n1 * old).div(new, rounding_mode="floor")
    high_n1 = ((new_n1 + 1) * old + new - 1).div(new, rounding_mode="floor")
    taken_nN = ((cell_N >= low_n1) & (cell_N < high_n1)).to(like.dtype)
    return taken_nN / (high_n1 - low_n1)


def turn_gradient(values: Tensor, factor: float) -> Tensor:
    """The same values; their gradient times -factor."""
    fixed = values.detach()
    return fixed + (values - fixed) * -factor


class Cmkd(Method):
    def __init__(self, config: CmkdConfig, student: Detector, teacher: Detector, mean: Mean):
        super().__init__(config, student, teacher, mean)
        common = [s for s in student.strides if student.strides.count(s) == teacher.strides.count(s) == 1]
        self.strides = config.strides or tuple(stride for stride in common if stride <= COARSEST)
        if not self.strides:
            raise ValueError(
                f"cmkd: no level up to stride {COARSEST} is common to the strides {student.strides} and "
                f"{teacher.strides}; name some with --distill.cmkd.strides"
            )
        self.same_size = config.faithful  # type: ignore[misc]
        self.weights = {"cmkd": config.weight}
        self.want_student = self.want_teacher = Want(neck=self.strides)
        self.levels = levels_of(self.strides, student, teacher, "--distill.cmkd.strides")
        self.adapters = make_adapters(student, teacher, len(self.strides), "cmkd")
        self.discriminators = None
        if config.loss == "adversarial":
            self.logged = ("told_apart",)
            width = max(teacher.channels // 2, 1)
            self.discriminators = nn.ModuleList(
                Discriminator(
                    teacher.channels, width, HIDDEN, POOLS.get(stride, (False, False)), grid_of(config.canvas, stride)
                )
                for stride in self.strides
            )

    def forward(
        self, seen: dict[str, Outputs], teacher: Outputs, assigned: dict[str, Assigned], views: Views
    ) -> tuple[dict[str, Tensor], Logged]:
        (name,) = seen
        small, full = getattr(views, name), getattr(views, self.teacher_sees)
        student_maps, teacher_maps, insides = [], [], []
        with torch.autocast(small.images_B3HW.device.type, enabled=False):
            for index, (stride, (ours, theirs)) in enumerate(zip(self.strides, self.levels, strict=True)):
                student_map, teacher_map = seen[name].neck[ours].float(), teacher.neck[theirs].float()
                if self.adapters is not None:
                    student_map = self.adapters[index](student_map)
                inside_BHW = torch.ones_like(teacher_map[:, 0], dtype=torch.bool)
                if not self.config.faithful:
                    small_B2, full_B2 = cells(small.sizes_B2, stride), cells(full.sizes_B2, stride)
                    inside_BHW = inside(full_B2, teacher_map.shape[-2:])
                    student_map = resize(student_map, small_B2, full_B2, teacher_map.shape[-2:])
                    teacher_map = torch.where(inside_BHW[:, None], teacher_map, 0.0)
                student_maps.append(student_map)
                teacher_maps.append(teacher_map)
                insides.append(inside_BHW)
            if self.discriminators is None:
                squares = zip(student_maps, teacher_maps, insides, strict=True)
                return {"cmkd": torch.stack([self.squared(*each) for each in squares]).mean() / 2}, {}
            real_B = full.sizes_B2.gt(0).all(dim=1) | self.config.faithful
            kept = self.draw_kept(views.keys_B)
            losses, logits = self.told_apart(student_maps, teacher_maps, kept, real_B)
            right_2BL = (torch.cat(logits, dim=1) > 0) == labels_of(logits[0])
            right = (right_2BL & real_B.repeat(2)[:, None]).sum().float()
            count = (2 * len(logits) * real_B.sum()).float()
        return {"cmkd": losses.mean()}, {"told_apart": (right, count)}

    def squared(self, student_BCHW: Tensor, teacher_BCHW: Tensor, inside_BHW: Tensor) -> Tensor:
        """The mean squared error of a level, over what lies inside the images of the global batch."""
        if self.config.faithful:
            return F.mse_loss(student_BCHW, teacher_BCHW)
        count = self.mean(inside_BHW.sum().float()).clamp(min=1e-6)
        return (student_BCHW - teacher_BCHW).square().sum() / (count * student_BCHW.shape[1])

    def told_apart(
        self, student: list[Tensor], teacher: list[Tensor], kept: list[Tensor] | list[None], real_B: Tensor
    ) -> tuple[Tensor, list[Tensor]]:
        """(a loss a level, its logits (2B, 1), the student's rows first)."""
        assert self.discriminators is not None
        count = real_B.sum().float()
        count = 2 * (count if self.config.faithful else self.mean(count).clamp(min=1e-6))
        losses, logits = [], []
        for discriminator, ours, theirs, kept_BN in zip(self.discriminators, student, teacher, kept, strict=True):
            both = torch.cat((turn_gradient(ours, self.config.reversal), theirs))
            logits.append(discriminator(both, kept_BN))
            loss_B = F.binary_cross_entropy_with_logits(logits[-1], labels_of(logits[-1]), reduction="none")[:, 0]
            losses.append(torch.where(real_B.repeat(2), loss_B, 0.0).sum() / count)
        return torch.stack(losses), logits

    def draw_kept(self, keys_B: Tensor) -> list[Tensor] | list[None]:
        """(2B, 108) a level: 0, or 1 / (1 - dropout). A pure function of the images' keys."""
        dropout = self.config.dropout
        if dropout == 0 or not (self.training or self.config.faithful):
            return [None] * len(self.strides)
        drawn_BN = draw_order(keys_B, 2 * len(self.strides) * HIDDEN, STREAM)
        kept_BN = (drawn_BN >= dropout * 2**32).float() / (1 - dropout)
        kept_2BLN = kept_BN.unflatten(1, (2, len(self.strides), HIDDEN)).transpose(0, 1).flatten(0, 1)
        return list(kept_2BLN.unbind(1))


def labels_of(logits_2B1: Tensor) -> Tensor:
    """0 for the student's half, 1 for the teacher's."""
    return (torch.arange(len(logits_2B1), device=logits_2B1.device)[:, None] >= len(logits_2B1) // 2).float()

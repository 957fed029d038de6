"""FGD, focal and global distillation (Yang et al., CVPR 2022, arXiv 2111.11837).

On each pyramid level, F the student's and T the teacher's map (C, H, W) of an image, t a temperature:

    S_hw = HW * softmax over places of mean_c|T| / t          A_c = C * softmax over channels of mean_hw|T| / t
    M_hw = the largest 1 / cells(box) of the boxes that cover the place; 0 outside every box
    V_hw = 1 / (number of places without a box) there; 0 inside a box

    foreground = sum_chw S A M (F - T)^2                      background = sum_chw S A V (F - T)^2
    attention  = sum_c |A(F) - A(T)| + sum_hw |S(F) - S(T)|   relation   = sum_chw (G(F) - G'(T))^2

    G(F) = F + conv(ReLU(norm(conv(sum_hw F softmax over places of conv(F)))))      a global context block, GcBlock

A box covers the cells floor(x1) .. ceil(x2), both included. Each sum is divided by the number of images; the levels are
added up. Each network has a GcBlock of its own, both trained. Where widths differ an adapter brings the student's map
to the teacher's. The last layer of a GcBlock starts at zero, so at first `relation` is the plain squared distance.

Differs from the original where it must. The original divides boxes by the image's own size, but its map covers the
padded canvas. So beside padding its masks lie too far right and too low. Ours divide by the stride. Padding is also a
part of its softmaxes, means, background and sums, so that a wider canvas changes the loss. Ours leave it out.
`faithful` gives the original's numbers. There the images of a rank are the divisor, here those of the global batch,
of `foreground` and `background` those of them that have labels.
"""

from dataclasses import dataclass, fields
from typing import ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.api import Assigned, Detector, Mean, Outputs, Want
from model.boxes.annotated import annotated
from model.config import ModelConfig
from pipeline.batch import View, Views
from train.distill.method import Logged, Method, annotations, levels_of, make_adapters
from train.distill.places import check_strides, check_weights, common_strides, require_numbers
from train.distill.regions import cells, inside


class Numbers(NamedTuple):
    """The temperature and the weights of the four terms."""

    temperature: float
    foreground: float
    background: float
    attention: float
    relation: float


# The original's configurations; it has none for ATSS, whose pyramid and losses are nearly GFL's.
PUBLISHED = {
    "faster_rcnn": Numbers(0.5, 5e-5, 2.5e-5, 5e-5, 5e-7),
    "retinanet": Numbers(0.5, 1e-3, 5e-4, 5e-4, 5e-6),
    "gfl": Numbers(0.5, 1e-3, 5e-4, 5e-4, 5e-6),
    "atss": Numbers(0.5, 1e-3, 5e-4, 5e-4, 5e-6),
    "fcos": Numbers(0.8, 1.6e-3, 8e-4, 8e-4, 8e-6),
}


@dataclass(frozen=True)
class FgdConfig:
    """Options of FGD. A number that is left out is the original's for the student's kind of detector."""

    kind: ClassVar[str] = "fgd"

    temperature: float | None = None
    """Of both attentions: 0.8 for FCOS, 0.5 for the others."""
    foreground: float | None = None
    """Weight of the places inside boxes (the paper's alpha)."""
    background: float | None = None
    """Weight of the other places (beta)."""
    attention: float | None = None
    """Weight of the difference of the attentions (gamma)."""
    relation: float | None = None
    """Weight of the difference after the global context blocks (lambda)."""
    strides: tuple[int, ...] = ()
    """Pyramid levels to distil, named by stride; none: all, without the pooled last one of a Faster R-CNN."""
    faithful: bool = False
    """The original's masks and sums: boxes divided by the unpadded image, padding counts."""

    def __post_init__(self) -> None:
        check_weights(self, "--distill.fgd", *Numbers._fields)
        if self.temperature == 0:
            raise ValueError("--distill.fgd.temperature must be above 0, got 0")
        check_strides(self.strides, "--distill.fgd.strides")

    def numbers(self, kind: str) -> Numbers:
        """The options, and the original's numbers for what is left out."""
        given = {field.name: getattr(self, field.name) for field in fields(self) if field.name in Numbers._fields}
        known = {name: value for name, value in given.items() if value is not None}
        if kind not in PUBLISHED:
            require_numbers("fgd", kind, self, *given)
            return Numbers(**known)
        return PUBLISHED[kind]._replace(**known)


class GcBlock(nn.Module):
    """F -> F + what a softmax-weighted mean of all its places says of the image (Cao et al., arXiv 1904.11492)."""

    def __init__(self, channels: int):
        super().__init__()
        narrow = max(channels // 2, 1)
        self.place = nn.Conv2d(channels, 1, 1)
        self.reduce = nn.Conv2d(channels, narrow, 1)
        self.norm = nn.LayerNorm([narrow, 1, 1])
        self.expand = nn.Conv2d(narrow, channels, 1)
        nn.init.kaiming_normal_(self.place.weight, nonlinearity="relu")
        for parameter in (self.place.bias, self.expand.weight, self.expand.bias):
            assert parameter is not None
            nn.init.zeros_(parameter)

    def forward(self, maps_BCHW: Tensor, inside_BHW: Tensor) -> Tensor:
        share_BHW = softmax_inside(self.place(maps_BCHW)[:, 0], inside_BHW)
        context_BC = (maps_BCHW.flatten(2) @ share_BHW.flatten(1)[..., None])[..., 0]
        return maps_BCHW + self.expand(F.relu(self.norm(self.reduce(context_BC[:, :, None, None]))))


class Masks(NamedTuple):
    foreground_BHW: Tensor
    background_BHW: Tensor


class Fgd(Method):
    same_size = True

    def __init__(self, config: FgdConfig, student: Detector, teacher: Detector, mean: Mean):
        super().__init__(config, student, teacher, mean)
        kind = student.config.kind
        numbers = config.numbers(kind)
        self.temperature = numbers.temperature
        self.weights = {f"fgd_{name}": value for name, value in numbers._asdict().items() if name != "temperature"}
        if numbers.relation == 0:
            del self.weights["fgd_relation"]  # and its blocks, which no gradient would reach
        pooled = student.strides[-1] if isinstance(student.config, ModelConfig) else None
        self.strides = config.strides or tuple(
            stride for stride in common_strides((), student, teacher, "--distill.fgd.strides") if stride != pooled
        )
        self.levels = levels_of(self.strides, student, teacher, "--distill.fgd.strides")
        self.want_student = self.want_teacher = Want(neck=self.strides)
        self.adapters = make_adapters(student, teacher, len(self.strides), "fgd")
        num_blocks = len(self.strides) if numbers.relation > 0 else 0
        self.student_blocks, self.teacher_blocks = (
            nn.ModuleList(GcBlock(teacher.channels) for _ in range(num_blocks)) for _ in range(2)
        )

    def forward(
        self, seen: dict[str, Outputs], teacher: Outputs, assigned: dict[str, Assigned], views: Views
    ) -> tuple[dict[str, Tensor], Logged]:
        (name,) = seen
        view = getattr(views, name)
        known, faithful = annotated(annotations(views, view)), self.config.faithful
        real_B = view.sizes_B2.gt(0).all(dim=1)
        # Where the objects of an unlabelled image are is not known: it has neither foreground nor background.
        labelled_B = real_B if faithful else known.present_B1[:, 0]
        num_real, num_labelled = (
            len(real_B) if faithful else self.mean(each_B.sum().float()).clamp(min=1e-6)
            for each_B in (real_B, labelled_B)
        )
        sums: dict[str, Tensor] = {}
        with torch.autocast(view.images_B3HW.device.type, enabled=False):
            for index, (stride, (ours, theirs)) in enumerate(zip(self.strides, self.levels, strict=True)):
                student_map, teacher_map = seen[name].neck[ours].float(), teacher.neck[theirs].float()
                if self.adapters is not None:
                    student_map = self.adapters[index](student_map)
                canvas = student_map.shape[-2:]
                if faithful:
                    inside_BHW = torch.ones_like(student_map[:, 0], dtype=torch.bool)
                else:
                    inside_BHW = inside(cells(view.sizes_B2, stride), canvas)
                boxes_BG4 = place_boxes(view, stride, canvas, faithful)
                masks = make_masks(boxes_BG4, known.owner_BG[:, : boxes_BG4.shape[1]], inside_BHW)
                masks = masks._replace(background_BHW=masks.background_BHW * labelled_B[:, None, None])
                found = level_terms(student_map, teacher_map, masks, inside_BHW, self.temperature)
                if len(self.student_blocks):
                    blocks = self.student_blocks[index], self.teacher_blocks[index]
                    found["relation"] = relation(student_map, teacher_map, inside_BHW, *blocks)
                sums = {term: sums[term] + value if sums else value for term, value in found.items()}
        by_boxes = ("foreground", "background")
        return {
            f"fgd_{term}": value / (num_labelled if term in by_boxes else num_real) for term, value in sums.items()
        }, {}


def place_boxes(view: View, stride: int, canvas: torch.Size, faithful: bool) -> Tensor:
    """Boxes in cells of a level's map."""
    if not faithful:
        return view.boxes_BG4 / stride
    height_B11, width_B11 = view.sizes_B2.clamp(min=1)[:, :, None, None].unbind(1)
    x_BG2 = view.boxes_BG4[..., 0::2] / width_B11 * canvas[1]
    y_BG2 = view.boxes_BG4[..., 1::2] / height_B11 * canvas[0]
    return torch.stack((x_BG2, y_BG2), dim=-1).flatten(2)


def make_masks(boxes_BG4: Tensor, counts_BG: Tensor, inside_BHW: Tensor) -> Masks:
    """M and V of boxes in cells. A box's number of cells is that of the whole box, also where it passes the border."""
    first_BG2, last_BG2 = boxes_BG4[..., :2].floor(), boxes_BG4[..., 2:].ceil()
    value_BG = torch.where(counts_BG, 1 / (last_BG2 + 1 - first_BG2).clamp(min=1).prod(dim=-1), 0.0)
    covers = []
    for axis, size in ((1, inside_BHW.shape[1]), (0, inside_BHW.shape[2])):
        place_N = torch.arange(size, device=boxes_BG4.device)
        covers.append((place_N >= first_BG2[..., axis, None]) & (place_N <= last_BG2[..., axis, None]))
    rows_BGH, columns_BGW = covers
    covered_BGHW = rows_BGH[..., None] & columns_BGW[:, :, None] & inside_BHW[:, None]
    # Beside 0, as a batch without any box may have no room for one either.
    values_BGHW = F.pad(torch.where(covered_BGHW, value_BG[..., None, None], 0.0), (0, 0, 0, 0, 0, 1))
    foreground_BHW = values_BGHW.amax(dim=1)
    empty_BHW = (inside_BHW & (foreground_BHW == 0)).float()
    return Masks(foreground_BHW, empty_BHW / empty_BHW.sum((1, 2), keepdim=True).clamp(min=1))


def softmax_inside(logits_BHW: Tensor, inside_BHW: Tensor) -> Tensor:
    """Softmax over the places inside each image, 0 outside; all 0 where nothing is inside."""
    # The lowest number, not -inf: an image without a place would give NaN.
    lowest = torch.finfo(logits_BHW.dtype).min
    share_BHW = torch.where(inside_BHW, logits_BHW, lowest).flatten(1).softmax(dim=1).view_as(logits_BHW)
    return torch.where(inside_BHW, share_BHW, 0.0)


def attentions(maps_BCHW: Tensor, inside_BHW: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """(S_BHW, A_BC) of maps that are zero outside."""
    size_BCHW, num_B = maps_BCHW.abs(), inside_BHW.sum((1, 2))
    spatial_BHW = num_B[:, None, None] * softmax_inside(size_BCHW.mean(dim=1) / temperature, inside_BHW)
    mean_BC = size_BCHW.sum((2, 3)) / num_B.clamp(min=1)[:, None]
    return spatial_BHW, maps_BCHW.shape[1] * (mean_BC / temperature).softmax(dim=1)


def level_terms(
    student_BCHW: Tensor, teacher_BCHW: Tensor, masks: Masks, inside_BHW: Tensor, temperature: float
) -> dict[str, Tensor]:
    """foreground, background and attention of a level, summed over the images."""
    student_BCHW, teacher_BCHW = blank(student_BCHW, inside_BHW), blank(teacher_BCHW, inside_BHW)
    spatial_BHW, channel_BC = attentions(teacher_BCHW, inside_BHW, temperature)
    our_spatial_BHW, our_channel_BC = attentions(student_BCHW, inside_BHW, temperature)
    distance_BHW = ((student_BCHW - teacher_BCHW).square() * channel_BC[:, :, None, None]).sum(dim=1) * spatial_BHW
    return {
        "foreground": (distance_BHW * masks.foreground_BHW).sum(),
        "background": (distance_BHW * masks.background_BHW).sum(),
        "attention": (our_channel_BC - channel_BC).abs().sum() + (our_spatial_BHW - spatial_BHW).abs().sum(),
    }


def relation(
    student_BCHW: Tensor, teacher_BCHW: Tensor, inside_BHW: Tensor, student_block: nn.Module, teacher_block: nn.Module
) -> Tensor:
    """That of a level, summed over the images."""
    ours_BCHW = student_block(blank(student_BCHW, inside_BHW), inside_BHW)
    theirs_BCHW = teacher_block(blank(teacher_BCHW, inside_BHW), inside_BHW)
    return blank(ours_BCHW - theirs_BCHW, inside_BHW).square().sum()


def blank(maps_BCHW: Tensor, inside_BHW: Tensor) -> Tensor:
    """Zero outside. where, not a product: the padding may hold any value, also one that is not finite."""
    return torch.where(inside_BHW[:, None], maps_BCHW, 0.0)

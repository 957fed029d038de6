"""One picture that says what Fairweather does: clean | corrupted | teacher | student on the same scene, as a JPEG.

`python -m eval.picture --teacher RUN --student RUN --data PACKED --out docs/picture.jpg`
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import tyro
from PIL import Image, ImageDraw, ImageFont

import kernels
from eval.detecting.detect import match_classes, read_image
from eval.examples.draw import draw_boxes
from eval.examples.scenes import choose_scenes, image_detector, judge
from eval.metrics.interchange import GroundTruth, ground_truth_of, select
from eval.results import load_run, working_score_of
from model.weights.checkpoint import load_detector
from pipeline.command.console import run_entry, say
from pipeline.packed.reader import PackedDataset

PANEL, GAP, CAPTION, MARGIN = 640, 14, 44, 14
PAPER, INK, SOFT = "#ffffff", "#17202e", "#5a6779"
FOUND, MISSED, FALSE, TRUTH = "#35e0c4", "#ffc53d", "#ff6f88", "#ffffff"
ON_PAPER = {FOUND: "#0b7a75", MISSED: "#9a6700", FALSE: "#b4233c"}  # the same colours, dark enough for words

Words = list[tuple[str, str]]  # (text, colour)


@dataclass(frozen=True)
class PictureOptions:
    """Draw a scene: clean with its true objects, corrupted, and what teacher and student find in the corrupted one."""

    teacher: Path
    student: Path
    data: Path
    """Packed dataset of the source domain's test images."""
    out: Path = Path("picture.jpg")
    corruption: str = "fog"
    severity: int = 3
    id: int | None = None
    """Image to show; the scene with the most classes by default."""
    columns: Literal[1, 2, 4] = 2
    device: Literal["cpu", "cuda"] = "cpu"


def draw_scene(options: PictureOptions) -> np.ndarray:
    dataset = PackedDataset(options.data)
    truth = ground_truth_of(dataset)[0]
    image_id = int(truth.image_ids_N[choose_scenes(truth, 1)[0]]) if options.id is None else options.id
    own_M = truth.image_ids_N[truth.image_M] == image_id
    clean = read_image(dataset, dataset.index_of(image_id))
    corrupted = kernels.corrupt(clean, severity=options.severity, corruption_name=options.corruption, seed=image_id)
    h, w = truth.sizes_N2[np.searchsorted(truth.image_ids_N, image_id)]
    scale = PANEL / w
    height = round(PANEL * h / w)
    boxes = truth.boxes_M4[own_M] * scale
    panels: list[tuple[str, Words, np.ndarray]] = [
        ("clean", [("true objects", SOFT)], paint(clean, height, boxes, [TRUTH] * len(boxes))),
        (
            f"{options.corruption.replace('_', ' ')}, severity {options.severity}",
            [("what both look at", SOFT)],
            paint(corrupted, height, boxes[:0], []),
        ),
    ]
    for name, path in (("teacher", options.teacher), ("student", options.student)):
        detected, words = look(path, dataset, truth, own_M, corrupted, image_id, options.device)
        panels.append((name, words, paint(corrupted, height, detected[0] * scale, detected[1], detected[2])))
    return arrange(panels, height, options.columns)


def look(
    path: Path,
    dataset: PackedDataset,
    truth: GroundTruth,
    own_M: np.ndarray,
    image: np.ndarray,
    image_id: int,
    device: str,
):
    """((boxes, colours, dashed), words) of what a run finds: found, missed and false alarms."""
    detector, card = load_detector(path, device)
    labels = match_classes(card.classes, dataset.classes, {})
    score = working_score_of(load_run(path).results)
    found = image_detector(detector, detector.detect, labels, torch.device(device), torch.float32)(
        dataset, image, image_id
    )
    found = select(found, found.scores_D >= score)
    verdicts, objects = judge(truth, own_M, found)
    missed = truth.boxes_M4[own_M][[verdict == "missed" for verdict in objects]]
    right = found.boxes_D4[[verdict == "right" for verdict in verdicts]]
    wrong = found.boxes_D4[[verdict == "false" for verdict in verdicts]]
    colours = [MISSED] * len(missed) + [FALSE] * len(wrong) + [FOUND] * len(right)
    dashed = [True] * (len(missed) + len(wrong)) + [False] * len(right)
    counts = ((right, "found", FOUND), (missed, "missed", MISSED), (wrong, "false", FALSE))
    words = [(f"{len(boxes)} {kind}", ON_PAPER[colour]) for boxes, kind, colour in counts]
    return (np.concatenate([missed, wrong, right]), colours, dashed), words


def paint(
    image: np.ndarray, height: int, boxes: np.ndarray, colours: list[str], dashed: list[bool] | None = None
) -> np.ndarray:
    panel = np.asarray(Image.fromarray(image).resize((PANEL, height), Image.Resampling.BICUBIC))
    return draw_boxes(panel, boxes, [""] * len(boxes), colours, dashed or [])


def arrange(panels: list[tuple[str, Words, np.ndarray]], height: int, columns: int) -> np.ndarray:
    rows = -(-len(panels) // columns)
    size = (2 * MARGIN + columns * PANEL + (columns - 1) * GAP, MARGIN + rows * (height + CAPTION))
    sheet = Image.new("RGB", size, PAPER)
    pen = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(size=20)
    for place, (name, words, panel) in enumerate(panels):
        x, y = MARGIN + place % columns * (PANEL + GAP), MARGIN + place // columns * (height + CAPTION)
        sheet.paste(Image.fromarray(panel), (x, y))
        pen.text((x + 2, y + height + 7), name, fill=INK, font=font)
        end = x + PANEL - 2.0
        for text, colour in reversed(words):
            pen.text((end, y + height + 7), text, fill=colour, font=font, anchor="ra")
            end -= pen.textlength(f"{text}   ", font=font)
    return np.asarray(sheet)


def main() -> None:
    options = tyro.cli(PictureOptions)
    picture = Image.fromarray(draw_scene(options))
    options.out.parent.mkdir(parents=True, exist_ok=True)
    picture.save(options.out, quality=88)
    say(f"picture: {options.out}")


if __name__ == "__main__":
    run_entry(main)

"""Look at a packed dataset: `python -m pipeline.contact_sheet PACKED --out FILE --count 16` draws samples and boxes.

Each class has a colour and its name on the boxes; ignored objects are thin and grey. The samples are chosen at random,
each with its id, domain and original file below, and decoded from the bytes that training reads. Images of other
sensors stand at its right, one a modality: three channels as red, green and blue, another number as their mean.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro
from PIL import Image, ImageDraw

from pipeline.command.console import run_entry, say
from pipeline.files.letters import measure, write
from pipeline.files.pixels import decode_packed
from pipeline.packed.reader import PackedDataset

COLOURS = ("#ff3b30", "#34c759", "#0a84ff", "#ffcc00", "#ff2dff", "#00e5ff", "#ff9500", "#b388ff")
IGNORED = "#a0a0a0"
BACKING = "#202020"  # behind class names


@dataclass(frozen=True)
class SheetOptions:
    """Draw samples of a packed dataset with their boxes into one picture."""

    packed: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="PACKED")]
    out: Path = Path("contact_sheet.jpg")
    """JPEG or PNG file to write."""
    count: int = 16
    columns: int = 4
    """Pictures side by side; a sample with images of two other sensors takes three."""
    cell: int = 480
    """Width of the place for one sample, in pixels; its height follows the pictures."""
    seed: int = 0


def draw_sample(dataset: PackedDataset, i: int, width: int, height: int) -> Image.Image:
    """One sample: the picture within width x height with boxes and class names, and a line of text below. What other
    sensors saw comes to its right, each in the same width, with the boxes alone."""
    letter = max(10, width // 32)  # pixels
    line = letter + 4
    pictures = [decode_packed(dataset.jpeg(i)), *(as_colours(dataset.read_extra(i, name)) for name in dataset.extra)]
    h, w = pictures[0].shape[:2]
    scale = min(width / w, height / h)
    sheet = Image.new("RGB", (width * len(pictures), height + line))
    for place, pixels in enumerate(pictures):
        picture = Image.fromarray(pixels).resize((max(1, round(w * scale)), max(1, round(h * scale))))
        sheet.paste(picture, (place * width, 0))
    draw = ImageDraw.Draw(sheet)
    lines: list[tuple[str, int, int]] = []  # text, left, baseline
    for box, label, ignore in zip(*dataset.target(i), strict=True):
        x1, y1, x2, y2 = (float(side) * scale for side in box)
        colour = IGNORED if ignore else COLOURS[(int(label) - 1) % len(COLOURS)]
        for left in range(0, sheet.width, width):
            corners = (left + x1, y1, left + max(x1, x2 - 1), max(y1, y2 - 1))
            draw.rectangle(corners, outline=colour, width=1 if ignore else 2)
        name, top = dataset.classes[int(label) - 1], max(0.0, y1 - line)
        long = measure(name, letter)[0] + 4
        start_x = max(0.0, min(x1, width - long))
        draw.rectangle((start_x, top, start_x + long - 1, top + line - 1), fill=BACKING)
        lines.append((name, round(start_x) + 2, round(top) + letter))
    start, file = f"{dataset.ids_N[i]}  {dataset.domain_of(i)}  ", dataset.file_names[i]
    room = width - 3 - measure(start, letter)[0]
    if measure(file, letter)[0] > room:  # the end of a path tells more than its beginning
        while file and measure("..." + file, letter)[0] > room:
            file = file[1:]
        file = "..." + file
    draw.rectangle((0, height, sheet.width, height + line), fill="black")
    lines.append((start + file, 3, height + letter))
    lines += [(name, place * width + 3, height + letter) for place, name in enumerate(dataset.extra, start=1)]
    written = np.array(sheet)
    for words, left, baseline in lines:
        write(written, words, left, baseline, letter, (255, 255, 255))
    return Image.fromarray(written)


def as_colours(image_HWC: np.ndarray) -> np.ndarray:
    """uint8 (h, w, 3) of any number of channels."""
    if image_HWC.shape[2] == 3:
        return image_HWC
    return np.repeat(image_HWC.mean(axis=2, keepdims=True).round().astype(np.uint8), 3, axis=2)


def cell_height(sizes_N2: np.ndarray, width: int) -> int:
    """Rows of a picture's place: `width` x the median of h/w, so that most pictures fill it."""
    return max(1, round(width * float(np.median(sizes_N2[:, 0] / sizes_N2[:, 1]))))


def make_sheet(dataset: PackedDataset, options: SheetOptions) -> Image.Image:
    if options.count < 1 or options.columns < 1 or options.cell < 32:
        raise ValueError("--count and --columns must be at least 1 and --cell at least 32")
    rng = np.random.default_rng(options.seed)
    chosen = np.sort(rng.permutation(len(dataset))[: options.count])
    columns = max(1, min(options.columns // (1 + len(dataset.extra)), len(chosen)))
    height = cell_height(dataset.sizes_N2[chosen], options.cell)
    cells = [draw_sample(dataset, i, options.cell, height) for i in chosen.tolist()]
    w, h = cells[0].size
    sheet = Image.new("RGB", (columns * w, -(-len(cells) // columns) * h))
    for place, cell in enumerate(cells):
        row, column = divmod(place, columns)
        sheet.paste(cell, (column * w, row * h))
    return sheet


def main() -> None:
    options = tyro.cli(SheetOptions)
    if options.out.suffix.lower() not in (".jpg", ".jpeg", ".png"):
        raise ValueError(f"--out {options.out}: expected a name that ends in .jpg or .png")
    with PackedDataset(options.packed) as dataset:
        make_sheet(dataset, options).save(options.out, quality=92)
    say(f"{options.out}: {min(options.count, len(dataset))} of {len(dataset)} samples")


if __name__ == "__main__":
    run_entry(main)

"""Look at a packed dataset: `python -m pipeline.contact_sheet PACKED --out FILE --count 16` draws samples and boxes.

Each class has a colour and its name on the boxes; ignored objects are thin and grey. The samples are chosen at random,
each with its id below, and decoded from the bytes that training reads.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro
from PIL import Image, ImageDraw

from pipeline.console import run_entry, say
from pipeline.packed import PackedDataset
from pipeline.pixels import decode_packed

COLOURS = ("#ff3b30", "#34c759", "#0a84ff", "#ffcc00", "#ff2dff", "#00e5ff", "#ff9500", "#b388ff")
IGNORED = "#a0a0a0"


@dataclass(frozen=True)
class SheetOptions:
    """Draw samples of a packed dataset with their boxes into one picture."""

    packed: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="PACKED")]
    out: Path = Path("contact_sheet.jpg")
    """JPEG or PNG file to write."""
    count: int = 16
    columns: int = 4
    cell: int = 480
    """Width and height of the place for one sample, in pixels."""
    seed: int = 0


def draw_sample(dataset: PackedDataset, i: int, cell: int) -> Image.Image:
    """One sample in a square cell: picture, boxes, class names, id."""
    picture = Image.fromarray(decode_packed(dataset.jpeg(i)))
    scale = min(cell / picture.width, (cell - 14) / picture.height)
    picture = picture.resize((max(1, round(picture.width * scale)), max(1, round(picture.height * scale))))
    sheet = Image.new("RGB", (cell, cell))
    sheet.paste(picture)
    draw = ImageDraw.Draw(sheet)
    for box, label, ignore in zip(*dataset.target(i), strict=True):
        x1, y1, x2, y2 = (float(side) * scale for side in box)
        colour = IGNORED if ignore else COLOURS[(int(label) - 1) % len(COLOURS)]
        draw.rectangle((x1, y1, max(x1, x2 - 1), max(y1, y2 - 1)), outline=colour, width=1 if ignore else 2)
        name, corner = dataset.classes[int(label) - 1], (x1, max(0.0, y1 - 12))
        draw.rectangle(draw.textbbox(corner, name), fill=colour)
        draw.text(corner, name, fill="black")
    draw.text((3, cell - 12), f"{dataset.ids_N[i]}  {dataset.domain_of(i)}", fill="white")
    return sheet


def make_sheet(dataset: PackedDataset, options: SheetOptions) -> Image.Image:
    if options.count < 1 or options.columns < 1 or options.cell < 32:
        raise ValueError("--count and --columns must be at least 1 and --cell at least 32")
    rng = np.random.default_rng(options.seed)
    chosen = np.sort(rng.permutation(len(dataset))[: options.count])
    columns = min(options.columns, len(chosen))
    sheet = Image.new("RGB", (columns * options.cell, -(-len(chosen) // columns) * options.cell))
    for place, i in enumerate(chosen.tolist()):
        row, column = divmod(place, columns)
        sheet.paste(draw_sample(dataset, i, options.cell), (column * options.cell, row * options.cell))
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

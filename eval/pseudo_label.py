"""Let a detector label images: `python -m eval.pseudo_label RUN --data DIR --labelled FEW --out OUT`.

OUT is a packed dataset with the pictures of DIR, byte for byte, and detections of RUN as boxes. A detection is an
object from its class's high score on, ignored from the low score on, and nothing below. Both scores are those that
reach a wanted precision on labelled images, or are given. Boxes that DIR may have are not looked at.
"""

from datetime import timedelta

import tyro

from eval.options import check_paths
from eval.pseudo_options import PseudoLabelOptions
from pipeline.command.console import importing, run_entry


def main() -> None:
    options = tyro.cli(PseudoLabelOptions)
    check_paths(options.as_evaluation())
    # Torch takes seconds to import: a wrong path is named before.
    with importing():
        from eval.detecting.pseudo_labels import label
        from pipeline.command.ranks import joined

    with joined(options.device, timedelta(minutes=10)) as world:
        label(options, world)


if __name__ == "__main__":
    run_entry(main, "run the same command again to continue")

"""Evaluate a detector: `python -m eval.run RUN_OR_CHECKPOINT --data DIR...`, or under torchrun on several ranks.

The student alone looks at every image; the same detections give VOC07, area and COCO figures, per class and domain,
with bootstrap intervals. Results lie in RUN/eval, the report in RUN/report.html.
"""

from datetime import timedelta

import tyro

from eval.options import EvaluationOptions, check_paths
from pipeline.command.console import importing, run_entry

BETWEEN_MEETINGS = timedelta(hours=6)  # of the ranks lies a whole pass over their images


def main() -> None:
    options = tyro.cli(EvaluationOptions)
    check_paths(options)
    # Torch takes seconds to import: a wrong path is named before.
    with importing():
        from eval.evaluation import run
        from pipeline.command.ranks import joined

    with joined(options.device, BETWEEN_MEETINGS) as world:
        run(options, world)


if __name__ == "__main__":
    run_entry(main)

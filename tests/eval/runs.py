"""What tests of evaluations share."""

from pathlib import Path

import torch

from eval.options import EvaluationOptions
from pipeline.command.ranks import World

ALONE = World(0, 1, torch.device("cpu"))


ROOT = Path(__file__).resolve().parents[2]


def options_for(scored, out, **changes) -> EvaluationOptions:
    settings = {"data": tuple(scored.data.values()), "out": out, "resamples": 30, "batch_size": 2, "pictures": False}
    return EvaluationOptions(scored.checkpoint, **(settings | {"report": False} | changes))

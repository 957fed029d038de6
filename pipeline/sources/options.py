"""What a user may say about how a source is read, beside its classes."""

from dataclasses import dataclass
from typing import Any, Literal

import tyro

from pipeline.sources.classes import Names, split_names


@dataclass(frozen=True)
class ReadOptions:
    domains: tyro.conf.UseAppendAction[tuple[Names, ...]] = ()
    """Only images of these domains; * stands for anything: --domains daytime_clear 'night_*'."""
    where: tyro.conf.UseAppendAction[tuple[Names, ...]] = ()
    """Only images with these attributes: --where weather=clear timeofday=daytime. One name twice means either value."""
    where_not: tyro.conf.UseAppendAction[tuple[Names, ...]] = ()
    """No images with any of these attributes: --where-not weather=foggy."""
    domain_name: str = ""
    """Name domains after attributes: --domain-name '{weather}_{timeofday}'. {folder} is the picture's folder."""
    unlabelled: Literal["auto", "background", "ignore", "skip", "error"] = "auto"
    """Pictures without a label file: without objects, unlabelled (all in them is ignored), left out, or a problem.
    auto: the format's own custom, said."""
    yaml: str = ""
    """YOLO: the file with the class names (.yaml, or Darknet's .data), a path or a name in ROOT."""

    def given(self) -> dict[str, Any]:
        """What differs from the defaults, for dataset.json."""
        values = {name: value for name, value in vars(self).items() if value != getattr(DEFAULTS, name)}
        return {name: list(split_names(value)) if isinstance(value, tuple) else value for name, value in values.items()}


DEFAULTS = ReadOptions()

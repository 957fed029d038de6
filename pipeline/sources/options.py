"""What a user may say about how a source is read, beside its classes."""

from dataclasses import dataclass
from typing import Annotated, Any, Literal

import tyro
from tyro.constructors import PrimitiveConstructorSpec

from pipeline.sources.classes import Names, split_names

# One occurrence of an option that takes several words with commas in them: joined by blanks.
Words = Annotated[
    str,
    PrimitiveConstructorSpec(
        nargs="*",
        metavar="NAME [NAME ...]",
        instance_from_str=" ".join,
        is_instance=lambda value: isinstance(value, str),
        str_from_instance=lambda text: text.split(),
    ),
]


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
    auto: the format's default, which is printed."""
    yaml: str = ""
    """YOLO: the file with the class names (.yaml, or Darknet's .data), a path or a name in ROOT."""
    extra: tyro.conf.UseAppendAction[tuple[Words, ...]] = ()
    """Aligned images of other sensors, in folders beside the pictures: --extra gated=gated0,gated1,gated2 depth."""
    extra_range: tyro.conf.UseAppendAction[tuple[Words, ...]] = ()
    """Which of their values become 0 and 255; images of 16 bits need it: --extra-range depth=0:8000."""
    extra_raw: tyro.conf.UseAppendAction[tuple[Words, ...]] = ()
    """Store these without loss, read several times faster and several times larger: --extra-raw gated."""

    def given(self) -> dict[str, Any]:
        """What differs from the defaults, for dataset.json."""
        values = {name: value for name, value in vars(self).items() if value != getattr(DEFAULTS, name)}
        words = {name: value for name, value in values.items() if name.startswith("extra")}
        return {
            name: list(split_names(value)) if isinstance(value, tuple) else value for name, value in values.items()
        } | {name: [word for text in value for word in text.split()] for name, value in words.items()}


DEFAULTS = ReadOptions()

"""What `python -m eval.translate` can be told."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

SEEN, GONE = 0.5, 0.1


@dataclass(frozen=True)
class TranslateOptions:
    """Make a packed dataset in the look of another domain."""

    run: Annotated[Path, tyro.conf.Positional]
    """A run of train.translate, or one of its checkpoints."""
    data: Path
    """Packed dataset to translate."""
    out: Path
    """Folder to write; the same command continues it when it was killed."""
    domain: str = ""
    """Domain of the result. Default: DOMAIN_to_TARGET of each picture's domain and the domain that RUN learned."""
    detector: Path | None = None
    """A run or checkpoint of a detector of the same classes, which finds out what vanished."""
    seen: float = SEEN
    """With --detector: least score in the original of an object that can vanish."""
    gone: float = GONE
    """With --detector: an object whose score in the translation is below this has vanished."""
    device: Literal["auto", "cpu", "cuda"] = "auto"

    def __post_init__(self) -> None:
        for name, default in (("seen", SEEN), ("gone", GONE)):
            value = getattr(self, name)
            if not 0 < value <= 1:
                raise ValueError(f"--{name} must be above 0 and at most 1, got {value:g}")
            if self.detector is None and value != default:
                raise ValueError(f"--{name} {value:g} has no effect without --detector; give it too, or leave it out")
        if self.gone > self.seen:
            raise ValueError(f"--gone {self.gone:g} is above --seen {self.seen:g}: nothing could stay; lower it")

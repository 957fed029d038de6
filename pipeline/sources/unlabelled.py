"""Pictures without a label file, in formats that have one for each picture."""

from typing import Literal

from pipeline.command.console import counted, say
from pipeline.files.problems import Problem
from pipeline.sources.annotated import Annotated
from pipeline.sources.options import ReadOptions

EFFECTS = {
    "background": "taken as pictures without objects",
    "ignore": "taken as unlabelled: everything in them is ignored",
    "skip": "left out",
}


class Unlabelled:
    def __init__(self, options: ReadOptions, custom: Literal["background", "skip", "error"], format: str):
        self.chosen = options.unlabelled != "auto"
        self.what = options.unlabelled if options.unlabelled != "auto" else custom
        self.why = "" if self.chosen else f", as is usual for {format} (--unlabelled background|ignore|skip|error)"
        self.count = 0

    def keeps(self, image: Annotated, problem: Problem, problems: list[Problem]) -> bool:
        """Whether this picture is taken; `problem` is what to report where it must have a file."""
        self.count += 1
        if self.what == "error":
            problems.append(problem)
        image.unlabelled = self.what == "ignore"
        return self.what in ("background", "ignore")

    def report(self, num_pictures: int, where: str) -> None:
        if not self.count or self.what == "error":
            return
        if self.count == num_pictures and not self.chosen:
            raise ValueError(
                f"{where}: none of the {counted(num_pictures, 'picture')} has a label file; expected them beside the "
                "pictures or in the layout of docs/data.md. Are they all without objects? Say so: --unlabelled "
                "background. Has nobody labelled them? --unlabelled ignore"
            )
        effect = EFFECTS[self.what]
        say(f"{where}: {self.count} of {counted(num_pictures, 'picture')} without a label file, {effect}{self.why}")

"""Runs that stand beside the one that is evaluated: where their figures lie, and which have to be measured first."""

from dataclasses import dataclass, replace
from pathlib import Path

from eval.detecting.evaluate import Truths
from eval.options import EvaluationOptions
from eval.results import has_results, load_run
from pipeline.command.console import say


@dataclass(frozen=True)
class Compared:
    """A run to compare with. `missing` domains have no figures in `folder` yet."""

    path: Path
    folder: Path
    missing: tuple[str, ...] = ()
    weights: Path | None = None  # what is evaluated where something is missing

    def options(self, options: EvaluationOptions) -> EvaluationOptions:
        """As the run beside it, so that the difference of the two is a paired one."""
        assert self.weights is not None
        return replace(
            options,
            run=self.weights,
            compare=(),
            detections=(),
            classes=options.classes if self.weights.is_file() else (),
            corruptions="none",
            corruption_images=0,
            originals=None,
            corruptor="kernels",
        )


def find_compared(paths: tuple[Path, ...], folder: Path, truths: Truths) -> list[Compared]:
    """Where the figures of each lie. `folder` is that of the evaluation itself.

    A run that was never evaluated gets its figures in its own folder; one with figures of other data keeps them, and
    the new ones lie in FOLDER/compared/NAME.
    """
    found = []
    for number, path in enumerate(paths):
        if not path.exists():
            raise ValueError(f"--compare {path}: there is no such run; give a run, or the folder of an evaluation")
        if path.resolve() in (folder.resolve(), (folder / "eval").resolve()):
            raise ValueError(f"--compare {path}: this evaluation is written there; add --out DIR to keep the other")
        same_name = [other.resolve().name for other in paths].count(path.resolve().name) > 1
        own = folder / "compared" / (f"{number}-{path.resolve().name}" if same_name else path.resolve().name)
        missing = missing_domains(path, truths)
        if not missing:
            found.append(Compared(path, path))
            continue
        weights = weights_of(path)
        if weights is None and has_results(path):
            say(f"note: {path} has no figures of {', '.join(missing)} in these data, and no weights to get them from")
            found.append(Compared(path, path))
            continue
        if weights is None:
            raise ValueError(
                f"--compare {path}: neither an evaluation nor weights are there; give a run, a checkpoint, or the "
                "folder of an evaluation"
            )
        if not missing_domains(own, truths) and load_run(own).results["run"] == str(weights):
            found.append(Compared(path, own))
        elif path.is_dir() and not has_results(path):
            found.append(Compared(path, path, missing, weights))
        else:
            found.append(Compared(path, own, missing, weights))
    return found


def missing_domains(path: Path, truths: Truths) -> tuple[str, ...]:
    """Domains of these data that a run has no figures of."""
    figures = load_run(path).results["domains"] if has_results(path) else {}
    return tuple(name for name, (_, home) in truths.items() if figures.get(name, {}).get("checksum") != home.checksum)


def weights_of(path: Path) -> Path | None:
    """What can be evaluated: the run itself, or what an evaluation written elsewhere was made from."""
    if path.is_file() or (path / "model.json").is_file() or (path / "checkpoints").is_dir():
        return path
    if has_results(path):
        results = load_run(path).results
        made_from = Path(results["run"])
        if results.get("weights") and made_from.exists():
            return made_from
    return None

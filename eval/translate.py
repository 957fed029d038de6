"""Give a packed dataset another look: `python -m eval.translate RUN --data DIR --out OUT`, RUN of `train.translate`.

OUT is a packed dataset with DIR's ids and boxes and RUN's translations of its pictures. Each picture is translated
alone and by one thread, so on one machine OUT's bytes depend on the weights and the pictures only. With --detector, an
object that the detector found in the original and does not find in the translation is marked `ignore`.
"""

from datetime import timedelta

import tyro

from eval.translate_options import TranslateOptions
from pipeline.command.console import importing, run_entry


def check_paths(options: TranslateOptions) -> None:
    """Name a wrong path before torch is imported, which takes seconds."""
    for name in ("run", "detector"):
        path = getattr(options, name)
        if path is not None and not path.exists():
            option = "RUN" if name == "run" else "--detector"
            raise ValueError(f"{option} {path}: there is no such run or checkpoint")
    if not (options.data / "dataset.json").is_file():
        from pipeline.packed.reader import PackedDataset

        PackedDataset(options.data)  # says what is there instead


def main() -> None:
    options = tyro.cli(TranslateOptions)
    check_paths(options)
    with importing():
        from eval.detecting.translated import translate_dataset
        from pipeline.command.ranks import joined

    with joined(options.device, timedelta(minutes=10)) as world:
        translate_dataset(options, world)


if __name__ == "__main__":
    run_entry(main, "run the same command again to continue")

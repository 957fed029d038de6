"""The folder a packed dataset is written into: ours from the first moment, never one with other files.

    OUT/.work/begun         written before anything else; a folder with other files and without it is left alone
    OUT/.work/*.tmp         what is being written; moved into place when whole
    OUT/.work/...           side tables of finished shards, lists of problems of parts

.work is removed when the dataset is finished, with all that killed runs left in it.
"""

import os
import platform
import shutil
from pathlib import Path

from pipeline.files.own import read_json
from pipeline.files.replace import replacing
from pipeline.packed.card import FORMAT

WORK = ".work"


def check_output(out: Path) -> None:
    """A folder that holds anything must be one this command began, for it replaces and deletes files there."""
    if not out.is_dir() or (out / WORK / "begun").is_file() or has_card(out):
        return
    inside = sorted(path.name for path in out.iterdir())
    if inside == [WORK] and not any((out / WORK).iterdir()):  # killed before the first file
        return
    if inside:
        raise ValueError(
            f"{out} is not empty and was not begun by this command (it holds {', '.join(inside[:5])}"
            f"{' ...' if len(inside) > 5 else ''}): choose an empty folder"
        )


def has_card(out: Path) -> bool:
    try:
        return read_json(out / "dataset.json", {"format": str})["format"] == FORMAT
    except ValueError:
        return False


def begin(out: Path) -> None:
    (out / WORK).mkdir(parents=True, exist_ok=True)
    (out / WORK / "begun").touch()


def clear_work(out: Path) -> None:
    shutil.rmtree(out / WORK, ignore_errors=True)


def temporary(out: Path, name: str) -> Path:
    """Where `name` is written before it is moved to OUT. Machines may share the folder, so it names the host."""
    (out / WORK).mkdir(exist_ok=True)
    return out / WORK / f"{name}.{platform.node()}.{os.getpid()}.tmp"


def replace_file(out: Path, name: str, data: bytes) -> None:
    """Write OUT/name whole or not at all."""
    with replacing(out / name, temporary(out, Path(name).name)) as path:
        path.write_bytes(data)

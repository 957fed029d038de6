"""Files of an evaluation: written whole or not at all, and a damaged one is named."""

import json
import zipfile
from pathlib import Path

import numpy as np

from pipeline.files.replace import replacing


def write_json(path: Path, value) -> None:
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(value, indent=1, allow_nan=False) + "\n")


def read_json(path: Path):
    try:
        return json.loads(path.read_text())
    except IsADirectoryError:
        raise ValueError(f"{path} is a folder, and a JSON file is needed; name the file") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not JSON ({error}); mend it or make it again") from None


def write_arrays(path: Path, arrays: dict[str, np.ndarray]) -> None:
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """What write_arrays wrote; nothing where there is no file."""
    if not path.is_file():
        return {}
    try:
        with np.load(path) as data:
            return {name: data[name] for name in data.files}
    except (ValueError, OSError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} is damaged ({error}); remove it and evaluate again") from None

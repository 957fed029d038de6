"""The view maker: against torch's own resize and flip, static shapes, and draws that depend on nothing but the ids."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import stats
from skimage import data
from torch.nn import functional

import kernels
from kernels import severity
from kernels.checks import oracle
from kernels.corruptions.registry import NEED_MASK
from kernels.launch import resize
from kernels.launch import table as parameters
from pipeline.batch import Batch
from pipeline.views import ViewConfig, ViewMaker, check, clean_view

SIZES = [(64, 96), (61, 83), (1, 1), (33, 5), (0, 0)]
CANVAS = (64, 96)
PLAIN = ViewConfig(corruptions=())
CHEAP = ("gaussian_noise", "impulse_noise", "contrast", "brightness", "saturate", "motion_blur")


def make_batch(sizes=SIZES, canvas=CANVAS, ids=None, seed=0, epoch=0) -> Batch:
    num = len(sizes)
    images_BHW3 = torch.zeros(num, *canvas, 3, dtype=torch.uint8)
    boxes_BG4 = torch.zeros(num, 3, 4)
    photograph = np.tile(data.astronaut(), (2, 3, 1))
    for b, (height, width) in enumerate(sizes):
        picture = photograph[10 * b : 10 * b + height, 150 : 150 + width]
        images_BHW3[b, :height, :width] = torch.from_numpy(picture.copy())
        if height > 8 and width > 4:
            boxes_BG4[b, 0] = torch.tensor([1.0, 2.0, width - 2.0, height - 1.5])
            boxes_BG4[b, 1] = torch.tensor([0.0, 0.0, width / 2, height / 2])
    ids = [17 + 3 * b if size != (0, 0) else -1 for b, size in enumerate(sizes)] if ids is None else ids
    return Batch(
        images_BHW3=images_BHW3,
        sizes_B2=torch.tensor(sizes, dtype=torch.int32),
        boxes_BG4=boxes_BG4,
        labels_BG=(boxes_BG4[..., 2] > 0).long(),
        ignore_BG=torch.zeros(num, 3, dtype=torch.bool),
        ids_B=torch.tensor(ids),
        epoch=epoch,
        seed=seed,
    )


def denormalise(images_B3HW: torch.Tensor) -> torch.Tensor:
    deviation, mean = (torch.tensor(values)[None, :, None, None] for values in (resize.DEVIATION, resize.MEAN))
    return (images_B3HW.float() * deviation + mean) * 255


@pytest.mark.parametrize("draw", range(6))
def test_corrupted_view_is_torch_s_antialiased_resize(draw):
    batch = make_batch()
    views = ViewMaker(PLAIN, threads=1)(batch, draw)
    levels = denormalise(views.corrupted.images_B3HW)
    flips = []
    for b, (height, width) in enumerate(SIZES):
        small_height, small_width = views.corrupted.sizes_B2[b].tolist()
        assert (views.corrupted.images_B3HW[b, :, small_height:] == 0).all()
        assert (views.corrupted.images_B3HW[b, :, :, small_width:] == 0).all()
        if height == 0:
            assert (small_height, small_width) == (0, 0)
            continue
        image = batch.images_BHW3[b, :height, :width].permute(2, 0, 1)[None].float()
        expected = functional.interpolate(image, (small_height, small_width), mode="bilinear", antialias=True)[0]
        got = levels[b, :, :small_height, :small_width]
        errors = [(got - option).abs().max() for option in (expected, expected.flip(2))]
        assert min(errors) < 1e-2
        flips.append(errors[1] < errors[0])
        assert views.ratio_B[b].item() == pytest.approx(
            np.sqrt(small_height * small_width / (height * width)), rel=1e-5
        )
    assert views.ratio_B[-1] == 1


def test_downscale_beyond_two_taps():
    """Large downscales: 0.2 takes ten pixels along each axis."""
    batch = make_batch([(64, 96), (7, 90)])
    config = replace(PLAIN, ratio_range=(0.2, 0.2), flip_probability=0.0)
    views = ViewMaker(config, threads=1)(batch, 0)
    for b, (height, width) in enumerate([(64, 96), (7, 90)]):
        size = tuple(views.corrupted.sizes_B2[b].tolist())
        image = batch.images_BHW3[b, :height, :width].permute(2, 0, 1)[None].float()
        expected = functional.interpolate(image, size, mode="bilinear", antialias=True)[0]
        assert (denormalise(views.corrupted.images_B3HW)[b, :, : size[0], : size[1]] - expected).abs().max() < 1e-2


def test_clean_view_is_mirrored_with_the_corrupted():
    batch = make_batch()
    clean_B3HW, sizes_B2 = clean_view(batch)
    assert clean_B3HW.is_contiguous(memory_format=torch.channels_last)
    assert clean_B3HW.dtype == torch.float32
    torch.testing.assert_close(sizes_B2, batch.sizes_B2)
    for flip_probability in (0.0, 1.0):
        config = replace(PLAIN, flip_probability=flip_probability, ratio_range=(1.0, 1.0))
        views = ViewMaker(config)(batch)
        assert views.clean.images_B3HW is not None
        for b, (height, width) in enumerate(SIZES):
            expected = clean_B3HW[b].clone()
            if flip_probability:
                expected[:, :height, :width] = expected[:, :height, :width].flip(2)
            torch.testing.assert_close(views.clean.images_B3HW[b], expected)
            torch.testing.assert_close(views.corrupted.images_B3HW[b], expected, atol=1e-5, rtol=0)
    mean, deviation = torch.tensor(resize.MEAN)[:, None, None], torch.tensor(resize.DEVIATION)[:, None, None]
    expected = (batch.images_BHW3[1, :61, :83].permute(2, 0, 1) / 255 - mean) / deviation
    torch.testing.assert_close(clean_B3HW[1, :, :61, :83], expected, atol=1e-5, rtol=1e-5)
    assert (clean_B3HW[1, :, 61:] == 0).all()


def test_boxes_follow_the_pixels():
    """A bright rectangle on black is found again, in both views, where its box says."""
    batch = make_batch([(64, 96)] * 6, ids=list(range(6)))
    batch.images_BHW3.zero_()
    box = torch.tensor([16.0, 8.0, 48.0, 40.0])
    batch.boxes_BG4.zero_()
    batch.boxes_BG4[:, 1] = box
    batch.images_BHW3[:, 8:40, 16:48] = 255
    views = ViewMaker(PLAIN)(batch, 2)
    assert views.clean.images_B3HW is not None
    seen = set()
    for view in (views.clean, views.corrupted):
        images, boxes = view.images_B3HW, view.boxes_BG4
        for b in range(6):
            left, top, right, bottom = boxes[b, 1].tolist()
            seen.add(round(left / (right - left), 2))
            bright = denormalise(images)[b, 0] > 128
            rows, columns = bright.any(1).nonzero().ravel(), bright.any(0).nonzero().ravel()
            assert abs(rows[0].item() - top) <= 1
            assert abs(rows[-1].item() + 1 - bottom) <= 1
            assert abs(columns[0].item() - left) <= 1
            assert abs(columns[-1].item() + 1 - right) <= 1
            assert (boxes[b, 0] == 0).all()
            assert (boxes[b, 2] == 0).all()
    assert seen == {0.5, 1.5}  # 16 / 32, and mirrored (96 - 48) / 32: both occurred


def test_corrupted_at_full_size_then_downscaled():
    """The corrupted pixels are those of kernels' corruption of the image alone, whatever the canvas around it."""
    batch = make_batch([(61, 83), (40, 70)])
    config = ViewConfig(corruptions=("pixelate",), severities=(4,), ratio_range=(0.7, 0.7), flip_probability=0.0)
    views = ViewMaker(config)(batch)
    for b, (height, width) in enumerate([(61, 83), (40, 70)]):
        image = batch.images_BHW3[b, :height, :width].numpy()
        corrupted = torch.from_numpy(kernels.corrupt(image, 4, "pixelate")).permute(2, 0, 1)[None].float()
        size = tuple(views.corrupted.sizes_B2[b].tolist())
        expected = functional.interpolate(corrupted, size, mode="bilinear", antialias=True)[0]
        assert (denormalise(views.corrupted.images_B3HW)[b, :, : size[0], : size[1]] - expected).abs().max() < 1e-2


@pytest.mark.parametrize("threads", [1, 2])
def test_same_images_in_any_batch_order_and_split(threads):
    sizes, ids = [(64, 96), (61, 83), (50, 40), (33, 96)], [5, 900, 2**40, 0]
    config = ViewConfig(corruptions=CHEAP)
    whole = make_batch(sizes, ids=ids, seed=3, epoch=7)
    maker = ViewMaker(config, threads=threads)
    expected = maker(whole, 11)
    for order in ([3, 1, 0, 2], [2], [0, 1], [1, 1]):
        part = replace(
            whole,
            **{
                name: getattr(whole, name)[order]
                for name in ("images_BHW3", "sizes_B2", "boxes_BG4", "labels_BG", "ignore_BG", "ids_B")
            },
        )
        views = ViewMaker(config, threads=1)(part, 11)
        for name in ("ratio_B", "keys_B"):
            torch.testing.assert_close(getattr(views, name), getattr(expected, name)[order], rtol=0, atol=0)
        for got, wanted in ((views.clean, expected.clean), (views.corrupted, expected.corrupted)):
            for name, value in vars(got).items():
                torch.testing.assert_close(value, getattr(wanted, name)[order], rtol=0, atol=0)
    other = maker(replace(whole, epoch=8), 11)
    assert (other.keys_B != expected.keys_B).all()
    assert (other.corrupted.images_B3HW != expected.corrupted.images_B3HW).any()


def test_laws_of_the_draws():
    """Over a run: the ratio is uniform over its range, types and severities are equally likely, half are mirrored."""
    config = ViewConfig()
    maker = ViewMaker(config, threads=1)
    sizes_B2, ratios, kinds, levels, flips = np.full((8, 2), (1000, 1000), np.int32), [], [], [], []
    for step in range(400):
        table = parameters.Table(8)
        bucket = maker.draw_bucket(0, step)
        assert bucket in config.buckets()
        ids_B = np.arange(8 * step, 8 * step + 8)
        parameters.draw_table(table, ids_B, sizes_B2, 0, 0, maker.kinds_N, maker.severities_S, bucket, 0.5)
        ratios += table.ratio_B.tolist()
        kinds += table.rows_B["corruption"].tolist()
        levels += table.rows_B["severity"].tolist()
        flips += table.rows_B["flip"].tolist()
        assert (table.ratio_B >= bucket[0] - 1e-3).all()
        assert (table.ratio_B <= bucket[1] + 1e-3).all()
    # Images of a batch share a bucket, so judge the spread with the batches' number.
    assert stats.kstest(ratios[::8], stats.uniform(0.6, 0.4).cdf).pvalue > 1e-3
    assert np.mean(ratios) == pytest.approx(0.8, abs=0.02)
    counts = np.bincount(kinds, minlength=19)
    trained = [severity.INDEX[name] for name in severity.TRAINING]
    assert counts.sum() == counts[trained].sum()
    assert stats.chisquare(counts[trained]).pvalue > 1e-3
    assert stats.chisquare(np.bincount(levels)[1:]).pvalue > 1e-3
    assert np.mean(flips) == pytest.approx(0.5, abs=0.03)


@pytest.mark.parametrize("canvas", [(608, 1024), (64, 96), (96, 64), (32, 32), (576, 1024)])
@pytest.mark.parametrize("config", [ViewConfig(), ViewConfig(full_size_probability=0.5, ratio_range=(0.3, 0.9))])
def test_corrupted_canvases_hold_every_draw(canvas, config):
    maker = ViewMaker(replace(config, corruptions=()), threads=1)
    canvases = maker.corrupted_canvases(canvas)
    assert len(canvases) <= config.ratio_buckets + 1
    assert all(side % 32 == 0 for size in canvases for side in size)
    batch = make_batch([canvas], canvas)
    seen = set()
    for draw in range(24):
        views = maker(batch, draw)
        seen.add(tuple(views.corrupted.images_B3HW.shape[2:]))
        assert (views.corrupted.sizes_B2[0] <= torch.tensor(views.corrupted.images_B3HW.shape[2:])).all()
    assert seen <= set(canvases)
    assert seen == set(canvases)  # all of them do occur


def test_shares_of_full_size_batches():
    maker = ViewMaker(ViewConfig(corruptions=(), full_size_probability=0.5), threads=1)
    full = [maker.draw_bucket(0, draw) == (1.0, 1.0) for draw in range(1000)]
    assert np.mean(full) == pytest.approx(0.5, abs=0.05)


def test_types_and_no_clean_view():
    batch = make_batch()
    views = ViewMaker(PLAIN, dtype=torch.bfloat16, clean=False)(batch)
    assert views.clean is None
    assert views.corrupted.images_B3HW.dtype == torch.bfloat16
    assert views.corrupted.images_B3HW.is_contiguous(memory_format=torch.channels_last)
    assert clean_view(batch, torch.float16)[0].dtype == torch.float16


@pytest.mark.parametrize("name", severity.ALL)
def test_every_type_on_a_mixed_batch(name):
    """Mixed sizes, a 1 x 1 image and a padded row, in a canvas with something beside the images."""
    batch = make_batch()
    batch.images_BHW3[1, 61:] = 200
    batch.images_BHW3[1, :, 83:] = 200
    masks = {"masks": 1} if name in NEED_MASK else {}
    config = ViewConfig(corruptions=(name,), flip_probability=0.0, **masks)
    maker = ViewMaker(config)
    views = maker(batch, 1)
    assert torch.isfinite(views.corrupted.images_B3HW).all()
    height, width = views.corrupted.sizes_B2[1].tolist()
    got = views.corrupted.images_B3HW[1, :, :height, :width]
    if name in NEED_MASK:  # their masks are cut for the canvas, so they are not those of the image alone
        table, pool = parameters.Table(len(SIZES)), maker.pool(CANVAS, 0)
        maker.draw_table(table, batch, maker.draw_bucket(0, 1), pool)
        image, row = batch.images_BHW3[1, :61, :83].numpy(), table.rows_B[1]
        expected = torch.from_numpy(oracle.under_mask(name, image, int(row["severity"]), row, pool))
        expected = expected.permute(2, 0, 1)[None].float()
        expected = functional.interpolate(expected, (height, width), mode="bilinear", antialias=True)[0]
        assert (denormalise(got[None])[0] - expected).abs().max() <= 1.01
        return
    alone = make_batch([(61, 83)], (61, 83), ids=[20])
    alone.images_BHW3[0] = batch.images_BHW3[1, :61, :83]
    expected = ViewMaker(config)(alone, 1).corrupted.images_B3HW[0, :, :height, :width]
    torch.testing.assert_close(got, expected, rtol=0, atol=0)


def test_masks_are_made_anew_when_asked():
    batch = make_batch([(64, 96)], ids=[3])
    config = ViewConfig(corruptions=("spatter",), severities=(5,), masks=1, ratio_range=(1.0, 1.0))
    kept, renewed = ViewMaker(config), ViewMaker(replace(config, mask_epochs=2))
    masks = []
    for epoch in (0, 1, 2, 0):
        for maker in (kept, renewed):
            maker(replace(batch, epoch=epoch))
        masks.append(renewed.pools[CANVAS].values_M)
    np.testing.assert_array_equal(masks[0], masks[1])
    assert (masks[2] != masks[1]).any()
    np.testing.assert_array_equal(masks[3], masks[0])  # a function of the epoch, whatever came before
    np.testing.assert_array_equal(kept.pools[CANVAS].values_M, masks[0])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"corruptions": ("gaussian",)}, "unknown corruption"),
        ({"severities": (0,)}, "severity"),
        ({"severities": ()}, "severities is empty"),
        ({"ratio_range": (0.0, 1.0)}, "--views.ratio-range"),
        ({"ratio_range": (0.9, 0.6)}, "--views.ratio-range"),
        ({"ratio_range": (0.6, 1.1)}, "--views.ratio-range"),
        ({"flip_probability": 1.5}, "--views.flip-probability"),
        ({"full_size_probability": -0.1}, "--views.full-size-probability"),
        ({"ratio_buckets": 0}, "--views.ratio-buckets"),
        ({"mask_epochs": -1}, "--views.mask-epochs"),
        ({"masks": 1.5}, "masks must be a whole number from 1"),
        ({"ratio_buckets": True}, "--views.ratio-buckets must be a whole number"),
        ({"corruptions": (), "severities": (1, 2)}, r"severities is set to \(1, 2\), but corruptions is \(\)"),
        ({"ratio_range": (1.0, 1.0), "full_size_probability": 0.5}, "every batch keeps its size; leave it out"),
        ({"ratio_range": (1.0, 1.0), "ratio_buckets": 3}, "nothing to divide"),
        ({"corruptions": ("contrast",), "masks": 4}, "none of snow, frost, fog, spatter is among"),
        ({"corruptions": (), "mask_epochs": 2}, "--views.mask-epochs is set to 2, but none of snow"),
    ],
)
def test_bad_configurations(options, words):
    with pytest.raises(ValueError, match=words):
        ViewConfig(**options)


def test_options_with_an_effect_are_allowed():
    ViewConfig(corruptions=("contrast",), severities=(2,), ratio_range=(1, 1), flip_probability=0.0, ratio_buckets=1)
    ViewConfig(corruptions=("fog",), masks=4, mask_epochs=2)
    ViewConfig(corruptions=(), ratio_range=(0.5, 1.0), full_size_probability=0.5, ratio_buckets=2)


def test_a_gpu_s_least_ratio_is_checked_before_the_first_batch():
    with pytest.raises(ValueError, match=r"must begin at 0\.1 or above on a GPU; got 0\.05"):
        ViewMaker(ViewConfig(ratio_range=(0.05, 1.0)), "cuda")


def test_given_frost_pictures_are_laid_on(tmp_path):
    """Ice of one grey, at the published severity 1: image + 0.4 x ice."""
    Image.fromarray(np.full((200, 300, 3), 100, np.uint8)).save(tmp_path / "ice.png")
    plain = ViewConfig(corruptions=("frost",), severities=(1,), ratio_range=(1.0, 1.0), flip_probability=0.0)
    batch = make_batch([(64, 96)])
    levels = denormalise(ViewMaker(replace(plain, frost_pictures=tmp_path))(batch).corrupted.images_B3HW)
    expected = (batch.images_BHW3.permute(0, 3, 1, 2) + 40.0).clamp(0, 255)
    assert (levels - expected).abs().max() <= 1.01
    with pytest.raises(ValueError, match="frost is not among the corruptions"):
        ViewConfig(corruptions=("fog",), frost_pictures=tmp_path)
    with pytest.raises(ValueError, match=r"no \.png or \.jpg"):
        ViewMaker(replace(plain, frost_pictures=tmp_path / "nowhere"))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"images_BHW3": torch.zeros(5, 64, 96, 3)}, "uint8"),
        ({"images_BHW3": torch.zeros(5, 3, 64, 96, dtype=torch.uint8)}, "shape"),
        ({"images_BHW3": torch.zeros(0, 64, 96, 3, dtype=torch.uint8)}, "empty"),
        ({"sizes_B2": torch.tensor([[65, 96]] * 5)}, "outside the canvas"),
        ({"sizes_B2": torch.tensor([[-1, 96]] * 5)}, "outside the canvas"),
        ({"sizes_B2": torch.tensor([[64, 96]] * 4)}, "sizes"),
        ({"sizes_B2": torch.tensor([[64.0, 96.0]] * 5)}, "sizes_B2 must be int32 or int64"),
        ({"ids_B": torch.arange(5.0)}, "ids_B must be int32 or int64"),
        ({"boxes_BG4": torch.zeros(5, 3, 4, dtype=torch.float64)}, "boxes_BG4"),
        ({"boxes_BG4": torch.zeros(4, 3, 4)}, r"shape \(5, G, 4\)"),
        ({"boxes_BG4": torch.zeros(5, 3, 5)}, r"shape \(5, G, 4\)"),
        ({"boxes_BG4": torch.zeros(5, 4)}, r"shape \(5, G, 4\)"),
        ({"boxes_BG4": torch.zeros(5, 3, 4, device="meta")}, "boxes_BG4 is on meta"),
    ],
)
def test_bad_batches(change, words):
    with pytest.raises(ValueError, match=words):
        ViewMaker(PLAIN)(replace(make_batch(), **change))
    with pytest.raises(ValueError, match="device"):
        ViewMaker(PLAIN, "meta")


def test_images_of_another_gpu_are_refused():
    """Their memory cannot be read there; only the index differs."""
    images = SimpleNamespace(dtype=torch.uint8, ndim=4, shape=(5, 64, 96, 3), device=torch.device("cuda:1"))
    with pytest.raises(ValueError, match="images are on cuda:1 but the views are made on cuda:0"):
        check(replace(make_batch(), images_BHW3=images), torch.device("cuda:0"))


def test_a_wrong_view_is_seen_before_it_is_timed():
    batch = make_batch([(61, 83)])
    views, clean = ViewMaker(PLAIN)(batch), batch.images_BHW3[0, :61, :83].numpy()
    assert views.clean.images_B3HW is not None
    assert oracle.view_problem(batch, views, clean) is None
    for name in ("clean", "corrupted"):
        view = getattr(views, name)
        wrong = replace(views, **{name: replace(view, images_B3HW=view.images_B3HW + 0.1)})
        assert name in oracle.view_problem(batch, wrong, clean)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("sizes", [[(64, 96), (61, 83), (33, 5), (0, 0)], [(64, 320), (61, 309), (33, 131), (1, 1)]])
def test_gpu_views_are_the_cpu_s(dtype, sizes):
    """In the second batch a row takes several blocks."""
    batch = make_batch(sizes * 5, canvas=sizes[0])
    config = ViewConfig(corruptions=severity.ALL)
    on_gpu = replace(
        batch,
        **{name: getattr(batch, name).cuda() for name in ("images_BHW3", "boxes_BG4", "labels_BG", "ignore_BG")},
    )
    on_cpu, maker = ViewMaker(config), ViewMaker(config, "cuda", dtype)
    level = 1 / (255 * 0.224)
    near = {torch.float32: 1e-4, torch.bfloat16: 0.02, torch.float16: 2e-3}[dtype]
    buckets = set()
    for draw in range(20):  # every bucket; tables and scratch in turn
        buckets.add(maker.draw_bucket(0, draw))
        expected, views = on_cpu(batch, draw), maker.start(on_gpu, draw).wait()
        assert views.clean.images_B3HW is not None
        assert expected.clean.images_B3HW is not None
        error = (views.corrupted.images_B3HW.float().cpu() - expected.corrupted.images_B3HW).abs()
        assert error.max() <= level + 2 * near
        torch.testing.assert_close(views.clean.images_B3HW.float().cpu(), expected.clean.images_B3HW, atol=near, rtol=0)
        for name in ("ratio_B", "keys_B"):
            torch.testing.assert_close(getattr(views, name).cpu(), getattr(expected, name))
        for got, wanted in ((views.clean, expected.clean), (views.corrupted, expected.corrupted)):
            torch.testing.assert_close(got.boxes_BG4.cpu(), wanted.boxes_BG4)
            torch.testing.assert_close(got.sizes_B2.cpu(), wanted.sizes_B2)
    assert len(buckets) == config.ratio_buckets


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_gpu_views_neither_wait_nor_allocate():
    batch = make_batch([(64, 96), (61, 83), (33, 5), (0, 0)] * 5)
    on_gpu = replace(
        batch,
        **{name: getattr(batch, name).cuda() for name in ("images_BHW3", "boxes_BG4", "labels_BG", "ignore_BG")},
    )
    maker = ViewMaker(ViewConfig(corruptions=severity.ALL), "cuda")

    def run(mode: str) -> int:
        for _ in range(12):
            torch.cuda.set_sync_debug_mode(mode)
            try:
                maker(on_gpu, 4)
            finally:
                torch.cuda.set_sync_debug_mode("default")
            torch.cuda.synchronize()
        return torch.cuda.memory_stats()["segment.all.allocated"]

    assert run("default") == run("error")

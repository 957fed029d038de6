"""Aligned images of other sensors: found beside the pictures, packed with them, loaded on request, unpacked."""

import io
import json
import tarfile
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from pipeline.loading.loader import open_loader
from pipeline.pack import PackOptions, pack
from pipeline.packed.reader import PackedDataset
from pipeline.sources.options import ReadOptions
from pipeline.views import ViewConfig, ViewMaker, clean_extra, clean_view

GATED = ("gated=gated0,gated1,gated2",)
READ = ReadOptions(extra=(*GATED, "depth"), extra_range=("depth=0:8000",))
SIZES = [(40, 61), (61, 40), (40, 61), (33, 61), (40, 61)]


def smooth(h: int, w: int, seed: int) -> np.ndarray:
    small = np.random.default_rng(seed).integers(0, 256, (4, 5), dtype=np.uint8)
    return np.asarray(Image.fromarray(small).resize((w, h), Image.Resampling.BICUBIC))


def add_slices(pictures: Path, stems: dict[str, tuple[int, int]], folders=("gated0", "gated1", "gated2")) -> None:
    for number, name in enumerate(folders):
        folder = Path(str(pictures).replace(pictures.name, name)) if pictures.name != "images" else None
        folder = folder or pictures.parent / name
        folder.mkdir(parents=True, exist_ok=True)
        for seed, (stem, (h, w)) in enumerate(stems.items()):
            Image.fromarray(smooth(h, w, 100 * number + seed)).save(folder / f"{stem}.png")


@pytest.fixture
def with_extra(make_voc) -> Path:
    """Five pictures of VOC's layout, three grey slices each of their size, and depth in 16 bits of twice their size."""
    stems = {f"i{n}": size for n, size in enumerate(SIZES)}
    root = make_voc({stem: (size, [("car", 3, 3, 30, 30)]) for stem, size in stems.items()})
    add_slices(root / "JPEGImages", stems)
    (root / "depth").mkdir()
    for seed, (stem, (h, w)) in enumerate(stems.items()):
        depth = smooth(2 * h, 2 * w, 1000 + seed).astype(np.uint16) * 31
        cv2.imwrite(str(root / "depth" / f"{stem}.png"), depth)
    return root


@pytest.fixture
def packed(with_extra, tmp_path) -> Path:
    options = PackOptions(
        with_extra, tmp_path / "packed", read=READ, short_side=600, classes=("car",), workers=1, images_per_shard=2
    )
    return pack(options)[0]


def members(path: Path) -> dict[str, bytes]:
    found = {}
    for tar in sorted(path.glob("shard-*.tar")):
        with tarfile.open(tar) as archive:
            found |= {one.name: archive.extractfile(one).read() for one in archive}
    return found


def test_each_is_a_further_member_of_the_sample_resized_with_the_picture(packed, with_extra):
    found = members(packed)
    first = [name for name in found if name.startswith("000000000000.")]
    assert first == [f"000000000000.{name}" for name in
                     ("jpg", "gated0.jpg", "gated1.jpg", "gated2.jpg", "depth.jpg", "json")]  # fmt: skip
    card = json.loads((packed / "dataset.json").read_text())
    assert card["version"] == 1
    assert card["extra"] == [
        {"name": "gated", "members": [{"name": f"gated{n}", "channels": 1} for n in range(3)]},
        {"name": "depth", "members": [{"name": "depth", "channels": 1}], "range": [0.0, 8000.0]},
    ]
    with PackedDataset(packed) as dataset:
        assert dataset.extra == {"gated": 3, "depth": 1}
        dataset.verify()
        h, w = dataset.sizes_N2[0]
        gated_HW3 = dataset.read_extra(0, "gated")
        assert gated_HW3.shape == (h, w, 3)
        for n in range(3):  # Pillow's own reading of the member, and of the file resized
            member = np.asarray(Image.open(io.BytesIO(found[f"000000000000.gated{n}.jpg"])))
            assert np.abs(gated_HW3[..., n].astype(int) - member).max() <= 1
            source = Image.open(with_extra / f"gated{n}" / "i0.png").resize((w, h), Image.Resampling.BILINEAR)
            assert np.abs(gated_HW3[..., n].astype(int) - np.asarray(source)).mean() < 3
        # 16 bits: 31 * level of 0..8000 as round(255 * value / 8000), at half the size.
        values = cv2.imread(str(with_extra / "depth" / "i0.png"), cv2.IMREAD_UNCHANGED)
        expected = cv2.resize(np.rint(values * (255 / 8000)).astype(np.uint8), (int(w), int(h)))
        assert np.abs(dataset.read_extra(0, "depth")[..., 0].astype(int) - expected).mean() < 3


def test_without_loss_the_very_levels(with_extra, tmp_path):
    read = ReadOptions(extra=("near=gated0 far=gated2",))
    out = pack(
        PackOptions(
            with_extra, tmp_path / "raw", read=read, raw=True, short_side=40, long_side=61, classes=("car",), workers=1
        )
    )[0]
    assert "000000000001.gated2.pgm" in members(out)
    with PackedDataset(out) as dataset, open_loader(dataset, 5, name="cpu", shuffle=False, extra=("far",)) as loader:
        assert np.array_equal(
            dataset.read_extra(2, "far")[..., 0], np.asarray(Image.open(with_extra / "gated2/i2.png"))
        )
        batch = next(loader)
        assert list(batch.extra) == ["far"]
        assert torch.equal(
            batch.extra["far"][0, :40, :61, 0], torch.from_numpy(dataset.read_extra(0, "far")[..., 0].copy())
        )


def test_a_dataset_without_them_is_packed_to_the_bytes_of_before(with_extra, tmp_path):
    plain = pack(PackOptions(with_extra, tmp_path / "plain", classes=("car",), workers=1))[0]
    assert "extra" not in json.loads((plain / "dataset.json").read_text())
    beside = pack(PackOptions(with_extra, tmp_path / "beside", classes=("car",), workers=1, read=READ))[0]
    less = {name: data for name, data in members(beside).items() if name.count(".") == 1}
    assert less == members(plain)
    with PackedDataset(plain) as dataset:
        assert dataset.extra == {}
        assert not any("." in name for name in dataset._places)


@pytest.mark.parametrize("name", ["cpu", "dali"])
def test_loaders_bring_what_is_asked_for_and_nothing_else(packed, name):
    if name == "dali":
        pytest.importorskip("nvidia.dali", reason="DALI is not installed")
    with PackedDataset(packed) as dataset:
        with open_loader(dataset, 3, name=name, shuffle=False, threads=2) as loader:
            plain = list(loader)
        assert all(batch.extra == {} for batch in plain)
        with open_loader(dataset, 3, name=name, shuffle=False, threads=2, extra=("depth", "gated")) as loader:
            batches = list(loader)
        assert len(batches) == len(plain) == 3  # 4 landscape in two batches, 1 portrait
        for batch, without in zip(batches, plain, strict=True):
            assert torch.equal(batch.images_BHW3, without.images_BHW3)
            assert list(batch.extra) == ["depth", "gated"]
            assert batch.extra["gated"].shape == (*batch.images_BHW3.shape[:3], 3)
            assert batch.extra["depth"].shape == (*batch.images_BHW3.shape[:3], 1)
            for b, id in enumerate(batch.ids_B.tolist()):
                for modality, extra_BHWC in batch.extra.items():
                    expected = torch.zeros(extra_BHWC.shape[1:], dtype=torch.uint8)
                    if id >= 0:
                        image = torch.from_numpy(dataset.read_extra(dataset.index_of(id), modality).copy())
                        expected[: image.shape[0], : image.shape[1]] = image
                    assert (extra_BHWC[b].int() - expected.int()).abs().max() <= (2 if name == "dali" else 0)


def test_ffcv_refuses_in_one_sentence(packed):
    with (
        PackedDataset(packed) as dataset,
        pytest.raises(ValueError, match="reads pictures only, not gated; choose 'cpu'"),
    ):
        open_loader(dataset, 2, name="ffcv", extra=("gated",))


def test_flipped_with_the_clean_view_and_never_corrupted(packed):
    with PackedDataset(packed) as dataset:
        with open_loader(dataset, 4, name="cpu", seed=5, extra=("gated", "depth")) as loader:
            batch = next(loader)
        # The picture itself as a further modality must go where the clean view goes.
        batch = replace(batch, extra={**batch.extra, "again": batch.images_BHW3})
        views = ViewMaker(ViewConfig(corruptions=("fog", "snow"), flip_probability=0.5), threads=1)(batch, 0)
        mean = torch.tensor([123.675, 116.28, 103.53])[:, None, None]
        deviation = torch.tensor([58.395, 57.12, 57.375])[:, None, None]
        flipped = 0
        for b, (h, w) in enumerate(batch.sizes_B2.tolist()):
            shown = views.extra["again"][b, :, :h, :w] * 255
            assert torch.allclose(views.clean.images_B3HW[b, :, :h, :w] * deviation + mean, shown, atol=1e-2)
            given = batch.extra["gated"][b, :h, :w].permute(2, 0, 1) / 255
            mirrored = not torch.equal(
                batch.images_BHW3[b, :h, :w].permute(2, 0, 1) / 255, views.extra["again"][b, :, :h, :w]
            )
            flipped += mirrored
            assert torch.equal(views.extra["gated"][b, :, :h, :w], given.flip(2) if mirrored else given)
            for extra in views.extra.values():
                assert extra[b, :, h:].abs().max() == 0 if h < extra.shape[2] else True
                assert extra[b, :, :, w:].abs().max() == 0 if w < extra.shape[3] else True
        assert 0 < flipped < 4
        assert views.extra["gated"].is_contiguous(memory_format=torch.channels_last)
        assert views.extra["depth"].shape[1] == 1
        assert views.extra["gated"].dtype == torch.float32
        assert torch.equal(clean_extra(batch)["gated"], batch.extra["gated"].permute(0, 3, 1, 2) / 255)
        assert clean_view(replace(batch, extra={}))[0].shape[1] == 3
        assert ViewMaker(ViewConfig(corruptions=()), threads=1)(replace(batch, extra={}), 0).extra == {}
        with pytest.raises(ValueError, match="extra gated must be uint8 of shape"):
            ViewMaker(ViewConfig(), threads=1)(replace(batch, extra={"gated": batch.extra["gated"][:, :32]}))

"""Aligned images of other sensors: found beside the pictures, packed with them, loaded on request, unpacked."""

import io
import json
import re
import tarfile
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from pipeline.contact_sheet import SheetOptions, as_colours, make_sheet
from pipeline.files.pixels import read_extra, read_kind, resize
from pipeline.loading.loader import open_loader
from pipeline.loading.mixture import Mixture
from pipeline.pack import PackOptions, pack
from pipeline.packed.reader import PackedDataset
from pipeline.share import ShareOptions, share
from pipeline.sources.extra import ExtraFiles, Member, Modality, parse_extra, same_shape
from pipeline.sources.options import ReadOptions
from pipeline.sources.read import read_source
from pipeline.unpack import UnpackOptions, unpack
from pipeline.views import (
    ViewConfig,
    ViewMaker,
    clean_extra,
    clean_view,
    flipped_columns,
    take_columns,
    to_unit,
)

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
        with_extra,
        tmp_path / "packed",
        read=READ,
        short_side=45,
        long_side=80,
        classes=("car",),
        workers=1,
        images_per_shard=2,
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


@pytest.mark.parametrize("name", ["cpu", "dali"])
def test_one_modality_without_loss(with_extra, tmp_path, name):
    if name == "dali":
        pytest.importorskip("nvidia.dali", reason="DALI is not installed")
    read = replace(READ, extra_raw=("gated",))
    sides = {"short_side": 45, "long_side": 80}
    out = pack(PackOptions(with_extra, tmp_path / "all", read=read, classes=("car",), workers=1, **sides))[0]
    share(ShareOptions(out, tmp_path / "some", tmp_path / "rest", share=0.4))
    for folder in (out, tmp_path / "some", tmp_path / "rest"):
        ends = {file.partition(".")[2] for file in members(folder)}
        assert ends == {"jpg", "gated0.pgm", "gated1.pgm", "gated2.pgm", "depth.jpg", "json"}
        assert [modality.get("raw") for modality in json.loads((folder / "dataset.json").read_text())["extra"]] == [
            True,
            None,
        ]
        with (
            PackedDataset(folder) as dataset,
            open_loader(dataset, 1, name=name, shuffle=False, extra=("gated",)) as loader,
        ):
            dataset.verify()
            for batch in loader:
                row = dataset.index_of(int(batch.ids_B[0]))
                h, w = size = tuple(dataset.sizes_N2[row].tolist())
                stem = Path(dataset.file_names[row]).stem
                for n in range(3):
                    expected = resize(read_extra(with_extra / f"gated{n}/{stem}.png", None), size)[..., 0]
                    assert np.array_equal(batch.extra["gated"][0, :h, :w, n].numpy(), expected)


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
        # What a GPU does, here on the CPU.
        flip_B = torch.tensor([not torch.equal(views.extra["again"][b], image.permute(2, 0, 1) / 255)
                               for b, image in enumerate(batch.images_BHW3)])  # fmt: skip
        columns_BW = flipped_columns(flip_B.to(torch.uint8), batch.sizes_B2, batch.images_BHW3.shape[2])
        for name, extra_BHWC in batch.extra.items():
            assert torch.equal(to_unit(take_columns(extra_BHWC, columns_BW), torch.float32), views.extra[name])
        assert views.extra["gated"].is_contiguous(memory_format=torch.channels_last)
        assert views.extra["depth"].shape[1] == 1
        assert views.extra["gated"].dtype == torch.float32
        assert torch.equal(clean_extra(batch)["gated"], batch.extra["gated"].permute(0, 3, 1, 2) / 255)
        assert clean_view(replace(batch, extra={}))[0].shape[1] == 3
        assert ViewMaker(ViewConfig(corruptions=()), threads=1)(replace(batch, extra={}), 0).extra == {}
        with pytest.raises(ValueError, match="extra gated must be uint8 of shape"):
            ViewMaker(ViewConfig(), threads=1)(replace(batch, extra={"gated": batch.extra["gated"][:, :32]}))


def build_coco(make_coco) -> tuple[Path, Path, dict[str, tuple[int, int]]]:
    root = make_coco({1: (30, 50), 2: (30, 50)}, [{"image_id": 1, "category_id": 3, "bbox": [1, 1, 9, 9]}])
    return root, root / "gated{}", {"1": (30, 50), "2": (30, 50)}


def build_yolo(make_yolo) -> tuple[Path, Path, dict[str, tuple[int, int]]]:
    root = make_yolo({"a": ((30, 50), ["0 0.5 0.5 0.2 0.2"]), "b": ((30, 50), [])})
    return root, root / "train/gated{}", {"a": (30, 50), "b": (30, 50)}


@pytest.mark.parametrize("layout", ["coco", "yolo", "yolo by kind"])
def test_found_beside_the_pictures_in_every_layout(layout, make_coco, make_yolo):
    root, place, stems = build_coco(make_coco) if layout == "coco" else build_yolo(make_yolo)
    if layout == "yolo by kind":  # images/train and labels/train, so gated0/train
        for kind in ("images", "labels"):
            (root / kind).mkdir()
            (root / "train" / kind).rename(root / kind / "train")
        (root / "data.yaml").write_text("train: images/train\nnc: 2\nnames: [car, bus]\n")
        place = root / "gated{}/train"
    for number in range(2):
        folder = Path(str(place).format(number))
        folder.mkdir(parents=True)
        for seed, (stem, size) in enumerate(stems.items()):
            Image.fromarray(smooth(*size, seed)).save(folder / f"{stem}.png")
    source = read_source(root, options=ReadOptions(extra=("gated=gated0,gated1",)), quiet=True)
    assert source.problems == []
    assert source.extra == (Modality("gated", (Member("gated0", "gated0", None), Member("gated1", "gated1", None))),)
    assert source.extra_channels == {"gated0": 1, "gated1": 1}
    for sample in source.samples:
        assert sample.extra == {f"gated{n}": Path(str(place).format(n)) / f"{sample.path.stem}.png" for n in range(2)}


@pytest.mark.parametrize("format", ["pictures", "yolo"])
def test_what_other_sensors_saw_is_no_picture(format, tools, tmp_path):
    """Formats that take every picture of a folder: its slices would be packed as pictures, each beside itself."""
    for number in range(2):
        tools.save(tmp_path / f"root/images/p{number}.png", tools.draw(30, 40, number))
        tools.save(tmp_path / f"root/images/near/gated0/p{number}.png", tools.draw(30, 40, number))
    options = ReadOptions(extra=("gated=near/gated0",))
    if format == "yolo":
        (tmp_path / "root/data.yaml").write_text("train: images\nnames: [car]\n")
        options = replace(options, unlabelled="background")
    source = read_source(tmp_path / "root", format, classes=("car",), options=options, quiet=True)
    assert source.problems == []
    assert [sample.path.relative_to(tmp_path) for sample in source.samples] == [
        Path("root/images/p0.png"),
        Path("root/images/p1.png"),
    ]
    assert [sample.id for sample in source.samples] == [0, 1]


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda root: (root / "gated1/i3.png").unlink(), r"JPEGImages/i3.jpg, --extra: gated1/i3.\* is missing"),
        (lambda root: Image.fromarray(smooth(40, 62, 0)).save(root / "gated2/i0.png"), None),  # a pixel of rounding
        (
            lambda root: Image.fromarray(smooth(40, 70, 0)).save(root / "gated2/i0.png"),
            "gated2/i0.png is 70x40 and the picture 61x40: of another shape, it is not aligned with the picture",
        ),
        (
            lambda root: cv2.imwrite(str(root / "gated0/i0.png"), np.zeros((40, 61), np.uint16)),
            "gated0/i0.png has more than 8 bits a channel.* --extra-range gated=LOW:HIGH",
        ),
        (
            lambda root: cv2.imwrite(str(root / "gated0/i0.png"), np.zeros((40, 61, 3), np.uint16)),
            "gated0/i0.png has more than 8 bits a channel",
        ),
        (
            lambda root: Image.fromarray(np.zeros((40, 61, 3), np.uint8)).save(root / "gated0/i2.png"),
            "gated0/i2.png is in colours, the first of gated0 grey",
        ),
        (lambda root: (root / "gated0/i1.png").write_bytes(b"no picture"), "gated0/i1.png is not a picture"),
        (lambda root: Image.new("L", (61, 40)).save(root / "gated0/i0.jpg"), "gated0/i0: i0.jpg and i0.png, expect"),
        (lambda root: (root / "JPEGImages/gated0").mkdir(), "several folders gated0 for the picture"),
    ],
)  # fmt: skip
def test_what_is_missing_or_does_not_fit_is_named(with_extra, harm, message):
    harm(with_extra)
    source = read_source(with_extra, classes=("car",), options=READ, quiet=True)
    if message is None:
        assert source.problems == []
    else:
        assert source.problems
        assert any(re.search(message, str(problem)) for problem in source.problems), source.problems


def test_a_mistake_in_an_option_is_one_error(with_extra):
    """Not one a picture: a folder that is not there, and 16 bits without a range."""
    (with_extra / "gated0").rename(with_extra / "gated9")
    with pytest.raises(ValueError, match=r"--extra gated: there is no folder gated0 beside the pictures \(nearest: "):
        read_source(with_extra, classes=("car",), options=READ, quiet=True)
    (with_extra / "gated9").rename(with_extra / "gated0")
    for path in (with_extra / "gated0").iterdir():
        cv2.imwrite(str(path), np.zeros((40, 61), np.uint16))
    with pytest.raises(ValueError, match=r"gated0/i0.png has more than 8 bits a channel.*give --extra-range gated=LOW"):
        read_source(with_extra, classes=("car",), options=READ, quiet=True)


def test_a_folder_for_each_of_cocos_splits(tmp_path):
    """nir/train2017/x.png beside train2017/x.jpg."""
    files = ExtraFiles(tmp_path, parse_extra(("nir",), ()))
    for name in ("train2017", "nir/train2017", "nir/val2017"):
        (tmp_path / name).mkdir(parents=True)
    Image.new("L", (61, 40)).save(tmp_path / "nir/train2017/x.png")
    assert files.find(tmp_path / "train2017/x.jpg", (40, 61)) == {"nir": tmp_path / "nir/train2017/x.png"}


def test_a_cut_file_is_found_when_it_is_decoded(with_extra, tmp_path):
    data = (with_extra / "gated1/i4.png").read_bytes()
    (with_extra / "gated1/i4.png").write_bytes(data[:-40])
    options = PackOptions(with_extra, tmp_path / "out", read=READ, classes=("car",), workers=1)
    with pytest.raises(ValueError, match=r"i4.jpg: has gated1/i4.png beside it, which cannot be decoded"):
        pack(options)
    pack(replace(options, allow_bad=1))
    with PackedDataset(tmp_path / "out") as dataset:
        assert len(dataset) == 4


@pytest.mark.parametrize(
    ("extra", "ranges", "message"),
    [
        ("gated=", (), "'' is no name"),
        ("rgb", (), "'rgb' is no name"),
        ("1st", (), "'1st' is no name"),
        ("gated=../x", (), "is not a folder beside the pictures"),
        ("gated=/x", (), "is not a folder beside the pictures"),
        ("a=x b=x", (), "names x twice"),
        ("a=x a=y", (), "names a twice"),
        ("depth", ("depht=0:1",), "--extra-range depht: --extra has depth"),
        ("depth", ("depth=5:5",), "expected NAME=LOW:HIGH"),
        ("depth", ("depth=0",), "expected NAME=LOW:HIGH"),
        ("a=" + ",".join(f"f{n}" for n in range(17)), (), "names 17 folders; at most 16"),
    ],
)
def test_wrong_options_are_refused(extra, ranges, message):
    with pytest.raises(ValueError, match=message):
        parse_extra((extra,), ranges)
    with pytest.raises(ValueError, match="--extra-raw gatde: --extra has gated, depth"):
        parse_extra(("gated depth",), (), ("gatde",))


def test_shapes_agree_up_to_the_rounding_of_a_pixel():
    assert same_shape((1024, 1920), (512, 960))
    assert same_shape((1, 1), (7, 7))
    assert same_shape((333, 500), (600, 901))
    assert not same_shape((1024, 1920), (720, 1280))  # the cameras of Seeing Through Fog
    assert not same_shape((40, 61), (61, 40))


@pytest.mark.parametrize("mode", ["L", "1", "LA", "P", "RGB", "RGBA", "I;16"])
def test_every_kind_of_file_is_one_or_three_channels(tmp_path, mode):
    grey = smooth(7, 5, 0)
    image = Image.fromarray(grey.astype(np.uint16) * 257) if mode == "I;16" else Image.fromarray(grey).convert(mode)
    image.save(tmp_path / "x.png")
    with open(tmp_path / "x.png", "rb") as file:
        kind = read_kind(file)
    assert kind == ((7, 5), 1 if mode in ("L", "1", "LA", "I;16") else 3, mode == "I;16")
    read = read_extra(tmp_path / "x.png", (0, 65535) if kind.wide else None)
    assert read.shape == (7, 5, kind.channels)
    if mode != "1":
        assert np.abs(read[..., 0].astype(int) - grey).max() <= (0 if mode != "P" else 3)


def test_16_bit_colours_keep_their_bits_until_the_range_is_applied(tmp_path):
    values = (np.arange(4 * 5 * 3).reshape(4, 5, 3) * 7 + 1000).astype(np.uint16)
    cv2.imwrite(str(tmp_path / "x.png"), values[..., ::-1])
    expected = np.clip(np.rint((values - 1000.0) * 255 / 300), 0, 255)
    assert np.array_equal(read_extra(tmp_path / "x.png", (1000, 1300)), expected)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("most", [1023, 65535])
def test_wide_pgm_and_ppm_keep_their_values(tmp_path, channels, most):
    values = np.arange(4 * 5 * channels, dtype=np.uint16).reshape(4, 5, channels) * 7 + 300
    header = b"P%d # made by hand\n5 4\n%d\n" % (5 if channels == 1 else 6, most)
    (tmp_path / "x.pgm").write_bytes(header + values.astype(">u2").tobytes())
    with open(tmp_path / "x.pgm", "rb") as file:
        assert read_kind(file) == ((4, 5), channels, True)
    expected = np.clip(np.rint((values - 300.0) * 255 / 500), 0, 255)
    assert np.array_equal(read_extra(tmp_path / "x.pgm", (300, 800)), expected)
    with pytest.raises(ValueError, match="more than 8 bits a channel, and nothing says which values"):
        read_extra(tmp_path / "x.pgm", None)
    text = b"P%d\n5 4\n%d\n" % (2 if channels == 1 else 3, most) + b" ".join(b"%d" % value for value in values.flat)
    (tmp_path / "text.pgm").write_bytes(text)
    assert np.array_equal(read_extra(tmp_path / "text.pgm", (300, 800)), expected)
    (tmp_path / "noted.pgm").write_bytes(
        header.replace(b"# made", b"# " + b"x" * 3000) + values.astype(">u2").tobytes()
    )
    assert np.array_equal(read_extra(tmp_path / "noted.pgm", (300, 800)), expected)
    (tmp_path / "cut.pgm").write_bytes((tmp_path / "x.pgm").read_bytes()[:-2])
    with pytest.raises(ValueError, match="cannot be decoded"):
        read_extra(tmp_path / "cut.pgm", (300, 800))


def test_a_tiff_of_wide_colours_is_refused(tmp_path):
    cv2.imwrite(str(tmp_path / "x.tif"), np.full((4, 5, 3), 1000, np.uint16))
    with pytest.raises(ValueError, match="a TIFF in colours with more than 8 bits a channel; save it as PNG"):
        read_extra(tmp_path / "x.tif", (0, 1023))


def test_one_range_is_for_files_of_one_depth(tmp_path):
    """A picture of 8 bits among those of 16 would become another brightness."""
    files = ExtraFiles(tmp_path, parse_extra(("depth=depth",), ("depth=0:1000",), ()))
    (tmp_path / "depth").mkdir()
    cv2.imwrite(str(tmp_path / "depth/a.png"), np.full((4, 5), 500, np.uint16))
    cv2.imwrite(str(tmp_path / "depth/b.png"), np.full((4, 5), 128, np.uint8))
    files.find(tmp_path / "a.jpg", (4, 5))
    with pytest.raises(ValueError, match="has 8 bits a channel, the first file of depth more than 8 bits: one range"):
        files.find(tmp_path / "b.jpg", (4, 5))


def test_datasets_of_a_mixture_must_agree(packed, with_extra, tmp_path):
    settings = {"classes": ("car",), "workers": 1, "short_side": 45, "long_side": 80}
    plain = pack(PackOptions(with_extra, tmp_path / "plain", **settings))[0]
    other = pack(PackOptions(with_extra, tmp_path / "other", quality=80, read=ReadOptions(extra=("gated=gated0",)),
                             **settings))[0]  # fmt: skip
    with PackedDataset(packed) as dataset, PackedDataset(other) as second:
        mixture = Mixture([dataset, second])
        assert mixture.extra == {"gated": 3}
        with pytest.raises(ValueError, match=r"has gated of gated0, gated1, gated2, .* of gated0; pack one of them"):
            open_loader(mixture, 2, extra=("gated",))
        with pytest.raises(ValueError, match=r"other has no 'depth': it has gated; pack it with --extra"):
            open_loader(mixture, 2, extra=("depth",))
        with pytest.raises(ValueError, match=r"has no 'gatd' .nearest: gated"):
            open_loader(dataset, 2, extra=("gatd",))
        with pytest.raises(ValueError, match="asked for twice"):
            open_loader(dataset, 2, extra=("gated", "gated"))
    read = replace(READ, extra_range=("depth=0:9e3",))
    deeper = pack(PackOptions(with_extra, tmp_path / "deep", quality=80, read=read, **settings))[0]
    with PackedDataset(packed) as dataset, PackedDataset(deeper) as second:
        mixture = Mixture([dataset, second])
        mixture.check_extra(("gated",))
        with pytest.raises(ValueError, match=r"has depth of values from 0 to 8000, .*deep from 0 to 9000; pack one"):
            mixture.check_extra(("depth",))
    with PackedDataset(plain) as dataset, pytest.raises(ValueError, match="has no 'gated': it has only pictures"):
        open_loader(dataset, 2, extra=("gated",))


def test_a_damaged_slice_is_named(packed):
    with PackedDataset(packed) as dataset:
        place = int(dataset._places["gated1"].offset[0])
    tar = packed / "shard-000000.tar"
    data = bytearray(tar.read_bytes())
    data[place + 30] ^= 1
    tar.write_bytes(data)
    with PackedDataset(packed) as dataset:
        dataset.jpeg(0)
        with pytest.raises(ValueError, match=r"record 000000000000 of shard-000000.tar, gated1, is damaged"):
            dataset.verify()
        with open_loader(dataset, 5, name="cpu", shuffle=False) as loader:
            next(loader)  # nobody asked for it
        with (
            open_loader(dataset, 5, name="cpu", shuffle=False, extra=("gated",)) as loader,
            pytest.raises(ValueError, match="gated1, is damaged"),
        ):
            next(loader)


def test_what_was_read_before_is_verified_again_by_name(packed):
    """Reading compares the checksum of a record once."""
    with PackedDataset(packed) as dataset:
        dataset.jpeg(0)
        with open(packed / "shard-000000.tar", "r+b") as file:
            file.seek(int(dataset._places[""].offset[0]) + 30)
            (byte,) = file.read(1)
            file.seek(-1, 1)
            file.write(bytes([byte ^ 1]))
        dataset.jpeg(0)
        with pytest.raises(ValueError, match=r"record 000000000000 of shard-000000.tar is damaged"):
            dataset.verify()


def test_parts_join_to_the_same_bytes_and_a_changed_slice_is_noticed(packed, with_extra, tmp_path):
    options = PackOptions(
        with_extra,
        tmp_path / "parts",
        read=READ,
        short_side=45,
        long_side=80,
        classes=("car",),
        workers=1,
        images_per_shard=2,
    )
    for part in ("1/2", "2/2"):
        assert pack(replace(options, part=part)) == []
    pack(replace(options, merge=True))
    assert members(options.out) == members(packed)
    assert (options.out / "index.parquet").read_bytes() == (packed / "index.parquet").read_bytes()
    pack(options)  # already packed from the same
    with pytest.raises(ValueError, match=r"other images or options .other extra"):
        pack(replace(options, read=ReadOptions()))
    Image.fromarray(255 - smooth(*SIZES[0], 0)).save(with_extra / "gated0/i0.png")
    with pytest.raises(ValueError, match=r"other extra|was changed after"):
        pack(options)


def test_reading_part_of_the_domains_keeps_them_beside_their_pictures(with_extra, tmp_path):
    for number, path in enumerate(sorted((with_extra / "Annotations").glob("*.xml"))):
        path.write_text(path.read_text().replace("<size>", f"<sky>{'dark' if number % 2 else 'light'}</sky><size>"))
    read = replace(READ, domain_name="{sky}")
    out = pack(PackOptions(with_extra, tmp_path / "skies", read=read, classes=("car",), workers=1))[0]
    with PackedDataset(out) as whole, PackedDataset(out, ["dark"]) as part:
        assert part.ids_N.tolist() == [1, 3]
        for i, id in enumerate(part.ids_N.tolist()):
            assert np.array_equal(part.read_extra(i, "gated"), whole.read_extra(id, "gated"))


@pytest.mark.parametrize("to", ["coco", *(pytest.param(to, marks=pytest.mark.long) for to in ("voc", "yolo"))])
@pytest.mark.parametrize("raw", ["", "all", "gated"])
def test_unpacked_beside_the_pictures_and_found_there_again(with_extra, tmp_path, to, raw):
    read = replace(READ, extra_raw=("gated",)) if raw == "gated" else READ
    options = PackOptions(with_extra, tmp_path / "packed", read=read, raw=raw == "all", classes=("car",), workers=1)
    with PackedDataset(pack(options)[0]) as dataset:
        unpack(UnpackOptions(dataset.path, tmp_path / "out", to))
        again = ReadOptions(extra=("gated=gated0,gated1,gated2 depth",))
        source = read_source(tmp_path / "out", classes=("car",), options=again, quiet=True)
        assert (source.format, source.problems, len(source.samples)) == (to, [], 5)
        for sample in source.samples:
            i = dataset.index_of(int(sample.path.stem))
            assert np.array_equal(
                read_extra(sample.extra["gated2"], None)[..., 0], dataset.read_extra(i, "gated")[..., 2]
            )
            assert np.array_equal(read_extra(sample.extra["depth"], None), dataset.read_extra(i, "depth"))


def test_the_contact_sheet_shows_them(packed):
    with PackedDataset(packed) as dataset:
        sheet = np.asarray(make_sheet(dataset, SheetOptions(packed, count=3, columns=4, cell=200)))
        assert sheet.shape[1] == 3 * 200  # one sample a row: picture, gated, depth
        i = int(np.sort(np.random.default_rng(0).permutation(5)[:3])[0])
        h, w = dataset.sizes_N2[i].tolist()
        scale = min(200 / w, (sheet.shape[0] // 3 - 14) / h)
        for place, image in enumerate((dataset.read_extra(i, "gated"), dataset.read_extra(i, "depth")), start=1):
            shown = sheet[: int(h * scale), 200 * place : 200 * place + int(w * scale)]
            assert abs(shown.mean() - image.mean()) < 15  # the box's lines
        assert as_colours(np.full((2, 2, 2), (10, 20), np.uint8)).tolist() == [[[15] * 3] * 2] * 2

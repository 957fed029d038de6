"""A packed dataset read in part: the images of some of its domains."""

import json

import numpy as np
import pytest

from pipeline.loading.loader import open_loader
from pipeline.loading.mixture import Mixture
from pipeline.pack import PackOptions, pack
from pipeline.packed.reader import PackedDataset
from pipeline.sources.options import ReadOptions

SIZES = [(40, 60), (60, 40), (1, 1)]


@pytest.fixture
def weathers(tmp_path, make_coco):
    """Nine images; 1, 2, 4, 5, 7, 8 are of clear_day, the others of fog; image i has i % 4 boxes."""
    images = {i: SIZES[i // 3] for i in range(9)}
    boxes = [
        {"image_id": i, "category_id": 3, "bbox": [0, 0, w, h]} for i, (h, w) in images.items() for _ in range(i % 4)
    ]
    root = make_coco(images, [box | {"area": box["bbox"][2] * box["bbox"][3]} for box in boxes])
    file = root / "annotations" / "instances_train.json"
    content = json.loads(file.read_text())
    for image in content["images"]:
        image["weather"] = "clear day" if image["id"] % 3 else "fog"
    file.write_text(json.dumps(content))
    (path,) = pack(
        PackOptions(root, tmp_path / "packed", read=ReadOptions(domain_name="{weather}"), workers=1, raw=True)
    )
    return path


@pytest.mark.parametrize("patterns", [["clear_day"], ["fog"], ["clear*", "fog"], ["FOG", "fog"]])
def test_a_part_equals_the_same_images_of_the_whole(weathers, patterns):
    whole, part = PackedDataset(weathers), PackedDataset(weathers, patterns)
    wanted = [i for i in range(9) if any(whole.domain_of(i).startswith(p.lower().rstrip("*")) for p in patterns)]
    assert (part.whole, part.checksum) == (len(wanted) == 9, whole.checksum)
    assert part.ids_N.tolist() == whole.ids_N[wanted].tolist()
    assert part.domain_counts == {name: whole.domain_counts[name] for name in part.domains}
    assert part.file_names == [whole.file_names[i] for i in wanted]
    for row, i in enumerate(wanted):
        assert part.domain_of(row) == whole.domain_of(i)
        assert part.index_of(int(whole.ids_N[i])) == row
        assert bytes(part.jpeg(row)) == bytes(whole.jpeg(i))
        for ours, theirs in zip(part.target(row), whole.target(i), strict=True):
            np.testing.assert_array_equal(ours, theirs)
        np.testing.assert_array_equal(part.original_target(row)[0], whole.original_target(i)[0])


def test_a_part_is_loaded_alone_on_its_own_canvas(weathers):
    part = PackedDataset(weathers, ["fog"])
    assert part.canvases == {
        name: sides for name, sides in PackedDataset(weathers).canvases.items() if name in part.canvases
    }
    with open_loader(part, 2, name="cpu", shuffle=False) as loader:
        ids = [int(id) for batch in loader for id in batch.ids_B if id >= 0]
    assert sorted(ids) == [0, 3, 6]
    mixture = Mixture([part])
    assert mixture.records()[0]["domains"] == {"fog": 3}
    assert len(mixture) == 3


def test_a_pattern_without_images_names_the_domains(weathers):
    with pytest.raises(ValueError, match=r"--domains night: .*packed has fog, clear_day"):
        PackedDataset(weathers, ["fog", "night"])

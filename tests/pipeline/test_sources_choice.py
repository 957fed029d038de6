"""Which images are packed and what their domains are called: --domains, --where, --where-not, --domain-name."""

import json
import re

import pytest
import tyro

from pipeline.pack import PackOptions, pack
from pipeline.packed.reader import PackedDataset
from pipeline.sources.choice import choose_domains
from pipeline.sources.options import ReadOptions
from pipeline.sources.read import read_source

FRAMES = [
    ("a.jpg", {"weather": "clear", "timeofday": "daytime", "scene": "city street"}),
    ("b.jpg", {"weather": "clear", "timeofday": "night", "scene": "highway"}),
    ("c.jpg", {"weather": "partly cloudy", "timeofday": "daytime", "scene": "highway"}),
    ("d.jpg", {"weather": "foggy", "timeofday": "daytime", "scene": "city street"}),
    ("e.jpg", {}),
]


@pytest.fixture
def bdd(tools, tmp_path):
    labels = [{"category": "car", "box2d": {"x1": 1, "y1": 2, "x2": 9, "y2": 8}}]
    for name, _ in FRAMES:
        tools.save(tmp_path / "bdd/images/100k/train" / name, tools.draw(11, 13))
    frames = [{"name": name, "attributes": attributes, "labels": labels} for name, attributes in FRAMES]
    (tmp_path / "bdd/labels").mkdir()
    (tmp_path / "bdd/labels/det_train.json").write_text(json.dumps(frames))
    return tmp_path / "bdd"


def chosen(root, domain="", **options) -> dict[str, str]:
    source = read_source(root, classes=("car",), domain=domain, options=ReadOptions(**options), quiet=True)
    assert source.problems == []
    return {sample.path.stem: sample.domain for sample in source.samples}


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"domains": ("daytime_clear",)}, "a"),
        ({"domains": ("daytime_*",)}, "acd"),
        ({"domains": ("daytime_clear", "night_*")}, "ab"),
        ({"domains": ("DAYTIME_PARTLY CLOUDY,night_clear",)}, "bc"),
        ({"where": ("weather=clear,timeofday=daytime",)}, "a"),
        ({"where": ("weather=clear", "weather=foggy")}, "abd"),
        ({"where": ("Weather=partly_cloudy",)}, "c"),
        ({"where": ("scene=city*", "timeofday=daytime")}, "ad"),
        ({"where": ("weather=*",)}, "abcd"),
        ({"where_not": ("weather=clear", "weather=foggy")}, "ce"),
        ({"where": ("timeofday=daytime",), "where_not": ("weather=foggy", "scene=highway")}, "a"),
    ],
)
def test_images_are_chosen(bdd, options, expected):
    assert "".join(chosen(bdd, **options)) == expected


def test_domains_are_named_by_the_users_rule(bdd):
    assert chosen(bdd) == {
        "a": "daytime_clear",
        "b": "night_clear",
        "c": "daytime_partly_cloudy",
        "d": "daytime_foggy",
        "e": "bdd",
    }
    assert chosen(bdd, domain_name="{Weather} {timeofday}!") == {
        "a": "clear daytime!",
        "b": "clear night!",
        "c": "partly_cloudy daytime!",
        "d": "foggy daytime!",
        "e": "undefined undefined!",
    }
    assert chosen(bdd, domain_name="{weather}_day", domains=("clear_day",), where=("timeofday=daytime",)) == {
        "a": "clear_day"
    }
    assert set(chosen(bdd, domain="mine").values()) == {"mine"}


def test_ids_stay_those_of_the_whole_dataset_and_other_pictures_need_not_be_there(bdd):
    for name in "acde":
        (bdd / f"images/100k/train/{name}.jpg").unlink()
    source = read_source(bdd, classes=("car",), options=ReadOptions(where=("timeofday=night",)), quiet=True)
    assert source.problems == []
    assert [sample.id for sample in source.samples] == [1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"domains": ("clear_day",)},
            r"--domains clear_day: .*bdd has bdd, .* \(nearest: daytime_clear\)",
        ),
        ({"domains": ("daytime_clear", "x*")}, r"--domains x\*: "),
        ({"where": ("weather",)}, r"--where 'weather': expected NAME=VALUE"),
        ({"where": ("=clear",)}, "expected NAME=VALUE"),
        ({"where_not": ("weather=",)}, "--where-not 'weather=': expected NAME=VALUE"),
        ({"where": ("wether=clear",)}, r"has the attribute 'wether' \(nearest: weather\); there are folder, .*weather"),
        ({"where": ("weather=clar",)}, r"weather=clar: .* \(nearest: clear\); weather is clear \(2\), partly cloudy"),
        ({"where": ("weather=foggy", "timeofday=night")}, "no image fits .* together"),
        ({"domain_name": "{wether}"}, r"--domain-name: .* 'wether' \(nearest: weather\)"),
        ({"domain_name": "clear"}, "expected attributes in braces"),
        ({"domain_name": "{weather}_{"}, "expected attributes in braces"),
        ({"domain_name": "{weather.__class__}"}, "no image of .* has the attribute"),
        ({"domain_name": "{weather}", "domain": "mine"}, "--domain gives one name and --domain-name a rule"),
    ],
)
def test_choices_that_fit_nothing_are_refused(bdd, options, message):
    with pytest.raises(ValueError, match=message):
        chosen(bdd, **options)


def test_values_that_this_split_lacks_are_noted(bdd, capsys):
    assert "".join(chosen(bdd, where_not=("weather=fogy", "weather=clear"))) == "cde"
    assert (
        "note: --where-not weather=fogy: no image has this value (nearest: foggy); weather is"
        in capsys.readouterr().out
    )
    assert "".join(chosen(bdd, where=("weather=clear", "weather=rainy"))) == "ab"
    assert "note: --where weather=rainy: no image has this value" in capsys.readouterr().out


def test_attributes_of_coco_voc_and_folders(make_coco, make_voc, make_yolo, tools):
    root = make_coco({1: (9, 9), 2: (9, 9)}, [])
    path = root / "annotations/instances_train.json"
    data = json.loads(path.read_text())
    data["images"][0].update(weather="rain", attributes={"tunnel": True})
    data["images"][1].update(weather="clear", attributes={"tunnel": False})
    path.write_text(json.dumps(data))
    source = read_source(root, options=ReadOptions(where=("tunnel=true",), domain_name="{weather}"), quiet=True)
    assert [(sample.id, sample.domain) for sample in source.samples] == [(1, "rain")]
    root = make_voc({"a": ((9, 9), []), "b": ((9, 9), [])})
    (root / "Annotations/b.xml").write_text(tools.voc_xml((9, 9), [], "<weather>snow</weather>"))
    assert chosen(root, where=("weather=snow",)) == {"b": "voc"}
    assert chosen(root, domain_name="{weather}") == {"a": "undefined", "b": "snow"}
    root = make_yolo({"a": ((9, 9), [])})
    tools.save(root / "train/images/night/b.jpg", tools.draw(9, 9))
    source = read_source(root, options=ReadOptions(domain_name="{folder}", unlabelled="background"), quiet=True)
    assert [sample.domain for sample in source.samples] == ["images", "night"]


def test_an_attribute_from_a_stranger_can_be_printed_and_stored(bdd):
    path = bdd / "labels/det_train.json"
    frames = json.loads(path.read_text())
    frames[0]["attributes"] = {"weather": "\ud800\x1b[31m", "timeofday": "daytime"}
    frames[1]["attributes"] = {f"key{n}": "x" * n for n in range(300)}
    path.write_text(json.dumps(frames))
    names = chosen(bdd)
    assert names["a"] == "daytime_\\ud800\\x1b[31m"
    assert names["b"] == "bdd"
    with pytest.raises(ValueError, match=r"weather is .*\\ud800\\x1b") as caught:
        chosen(bdd, where=("weather=clearest",))
    str(caught.value).encode()


def test_the_card_says_what_was_chosen_and_without_a_choice_nothing_new(bdd, tmp_path, capsys):
    line = f"{bdd} {tmp_path / 'out'} --classes car --workers 1 --where weather=clear timeofday=daytime --domains day*"
    (path,) = pack(tyro.cli(PackOptions, args=line.split()))
    assert "bdd: 1 of 5 images chosen by their attributes" in capsys.readouterr().out
    with PackedDataset(path) as dataset:
        assert dataset.domains == ["daytime_clear"]
        assert dataset.info["source"]["where"] == ["weather=clear", "timeofday=daytime"]
        assert dataset.info["source"]["domains"] == ["day*"]
    (path,) = pack(PackOptions(bdd, tmp_path / "all", classes=("car",), workers=1))
    assert set(json.loads((path / "dataset.json").read_text())["source"]) == {
        "format",
        "folder",
        "splits",
        "map",
        "drop",
    }


def test_domains_choose_the_parts_of_the_benchmark(make_voc, tmp_path):
    root = tmp_path / "weather"
    for folder in ("daytime_clear", "night_sunny", "night_rainy"):
        make_voc({"a": ((9, 9), [("car", 1, 1, 5, 5)])}, root=root / folder / "VOC2007")
    options = PackOptions(root, tmp_path / "out", workers=1, read=ReadOptions(domains=("night_*",)))
    assert sorted(path.name for path in pack(options)) == ["night_rainy_train", "night_sunny_train"]
    with pytest.raises(ValueError, match=re.escape("--domains dusk_rainy: ")):
        pack(PackOptions(root, tmp_path / "out2", workers=1, read=ReadOptions(domains=("dusk_rainy",))))


def test_packed_domains_are_chosen_by_the_same_patterns():
    names = ["daytime_clear", "night_clear", "dawn/dusk_rainy"]
    assert choose_domains(("*_clear",), names, "x") == names[:2]
    assert choose_domains(("dawn/dusk_rainy", "night*"), names, "x") == names[1:]


def test_a_domain_that_nothing_could_write_down(bdd):
    with pytest.raises(ValueError, match=r"--domain 'd\\ud800' has a control character or half a character"):
        chosen(bdd, domain="d\ud800")

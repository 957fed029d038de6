"""Names of domains, their order, and the paper's figures."""

import pytest

from eval.metrics import domains


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Daytime_Sunny", "daytime_clear"),
        ("daytime-clear", "daytime_clear"),
        ("Daytime-Foggy", "daytime_foggy"),
        ("Dusk-rainy", "dusk_rainy"),
        ("Night_rainy", "night_rainy"),
        ("Night-Sunny", "night_sunny"),
        ("Night-Clear", "night_sunny"),
        ("night clear", "night_sunny"),
        ("Tunnel-North", "Tunnel-North"),
    ],
)
def test_every_spelling_of_a_domain_is_one_domain(name, expected):
    assert domains.canonical(name) == expected


def test_order_is_source_targets_then_others():
    names = ["mars", "daytime_foggy", "night_sunny", "daytime_clear", "mars"]
    assert domains.ordered(names) == ["daytime_clear", "night_sunny", "daytime_foggy", "mars"]


def test_source_is_asked_for_or_clear_day_or_first():
    assert domains.find_source(["mars", "daytime_clear"]) == "daytime_clear"
    assert domains.find_source(["mars", "venus"]) == "mars"
    assert domains.find_source(["night_sunny", "mars"], "Night-Clear") == "night_sunny"
    with pytest.raises(ValueError, match="holds the domains mars"):
        domains.find_source(["mars"], "venus")


def test_means_of_the_papers_rows():
    """The printed mean is that of the printed targets; 30.975 is printed as 30.9."""
    for _, *targets, mean in domains.PAPER.values():
        assert sum(targets) / 4 == pytest.approx(mean, abs=0.08)

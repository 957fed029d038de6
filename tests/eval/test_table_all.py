"""The table of runs that were trained on several domains: a row for each, and the mean of all domains."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest

from eval import table
from eval.metrics.bootstrap import interval
from eval.metrics.scoring import score_domain
from eval.results import EvaluatedRun
from eval.table import all_seeds_table, all_table
from pipeline.files.own import write_arrays
from tests.eval.worlds import random_world

DOMAINS = ("day", "night")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    found = []
    for name, first in (("baseline", 0), ("whole", 5)):
        figures, samples = {}, {}
        for seed, domain in enumerate(DOMAINS, first):
            truth, detections = random_world(seed, num_images=20)
            part, _, own = score_domain(truth, detections, num_resamples=50)
            figures[domain] = part | {"checksum": domain}
            samples |= {f"{domain}|{metric}": values for metric, values in own.items()}
        results = {"domains": figures, "mean_of_targets": {}, "source": "day", "settings": {"resamples": 50, "seed": 0}}
        folder = tmp_path_factory.mktemp(name)
        write_arrays(folder / "bootstrap.npz", samples)
        found.append(EvaluatedRun(name, folder, results, folder))
    return found


def test_all_is_the_mean_of_the_domains_with_its_interval(runs):
    lines = all_table(runs).splitlines()
    assert re.split(r"\s{2,}", lines[0].strip()) == ["day", "night", "all", "all - baseline"]
    means, samples = [], []
    for run, line in zip(runs, lines[1:], strict=False):
        figures = [run.figure(domain) for domain in DOMAINS]
        means.append(float(np.mean(figures)))
        samples.append(np.mean([run.samples[f"{domain}|voc07"] for domain in DOMAINS], axis=0))
        low, high = interval(samples[-1])
        assert f"{figures[0]:.1f} [" in line
        assert f"  {means[-1]:.1f} [{low:.1f}, {high:.1f}]" in line
    low, high = interval(samples[1] - samples[0])
    assert lines[2].endswith(f"{means[1] - means[0]:+.1f} [{low:+.1f}, {high:+.1f}]")
    assert lines[1].endswith("-")


def test_other_domains_do_not_compare(runs):
    part = runs[1].results | {"domains": {"day": runs[1].results["domains"]["day"]}}
    with pytest.raises(ValueError, match="baseline was evaluated on day, night, whole on day; evaluate both on the"):
        all_table([runs[0], replace(runs[1], results=part)])


def test_means_over_seeds_with_the_mean_of_all_domains(runs):
    seeds = [runs[0], replace(runs[1], name="baseline"), replace(runs[1], name="whole"), replace(runs[0], name="whole")]
    lines = [re.split(r"\s{2,}", line.strip()) for line in all_seeds_table(seeds).splitlines()]
    assert lines[0] == ["day", "night", "all", "all - baseline"]
    figures_RD = np.array([[run.figure(domain) for domain in DOMAINS] for run in seeds])
    show = lambda values: f"{np.mean(values):.1f} [{min(values):.1f}, {max(values):.1f}]"  # noqa: E731
    means_R = figures_RD.mean(1)
    for line, rows in ((lines[1], slice(0, 2)), (lines[2], slice(2, 4))):
        assert line[1:4] == [show(figures_RD[rows, 0]), show(figures_RD[rows, 1]), show(means_R[rows])]
    # The same two runs in the other order: the mean does not change, and each seed does, by as much.
    change = abs(means_R[1] - means_R[0])
    assert (lines[1][4], lines[2][4]) == ("-", f"+0.0 [{-change:+.1f}, {change:+.1f}]")
    assert lines[3][0].endswith("mean [least, greatest] over runs (baseline 2, whole 2); all: the mean of the domains")


def test_the_command_joins_all_and_seeds(runs, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(table, "named_runs", lambda *_: [runs[0], replace(runs[1], name="baseline")])
    monkeypatch.setattr("sys.argv", ["table", "a", "b", "--seeds", "--all", "--json", str(tmp_path / "table.json")])
    table.main()
    assert "all - baseline" in capsys.readouterr().out
    written = json.loads((tmp_path / "table.json").read_text())["baseline"]
    expected = [[run.figure(domain) for run in runs] for domain in DOMAINS]
    assert written == {"day": expected[0], "night": expected[1], "all": pytest.approx(np.mean(expected, 0))}

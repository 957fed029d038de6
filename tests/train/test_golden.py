"""The golden runner: our copy of the cases passes, and what is wrong with a case is named."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.jobs import Job
from train.distill.crosskd import PUBLISHED
from train.distill.imitation import ImitationConfig
from train.distill.ld import CLASS_WEIGHT, LdConfig
from train.golden.__main__ import run_case
from train.golden.cases import EXACT, LOSS, Bound, Check, find_cases, judge

CASES = Path(__file__).parents[1] / "golden" / "oracles"


@pytest.fixture
def case(tmp_path) -> Path:
    """A copy of a small case, to be damaged."""
    folder = tmp_path / "pkd"
    folder.mkdir()
    for ending in ("json", "safetensors"):
        shutil.copy(CASES / "pkd" / f"pkd_constant_channel.{ending}", folder)
    return folder / "pkd_constant_channel"


def test_defaults_are_the_originals():
    """The runners take weights and temperatures from a case: here those of our methods are compared with it."""
    said = json.loads((CASES / "distillation" / "ld_gfl_padded.json").read_text())["config"]
    ld = LdConfig()
    assert (ld.main_weight, ld.temperature) == (said["loss_ld"]["weight"], said["loss_ld"]["T"])
    assert (ld.valuable_weight, ld.temperature) == (said["loss_ld_vlr"]["weight"], said["loss_ld_vlr"]["T"])
    assert (CLASS_WEIGHT, ld.class_temperature) == (said["loss_kd"]["weight"], said["loss_kd"]["T"])
    assert ImitationConfig().weight == said["loss_im"]["weight"]
    said = json.loads((CASES / "crosskd" / "atss_a.json").read_text())["config"]["kd_cfg"]
    names = ("loss_cls_kd", "loss_reg_kd", "loss_center_kd")
    assert PUBLISHED["atss"][:3] == tuple(said[name]["loss_weight"] for name in names)
    # Of the other kinds' recorded cases, which are not in the repository.
    others = {"gfl": (1.0, 4.0), "retinanet": (1.0, 1.0), "fcos": (0.4, 0.75)}
    assert {kind: PUBLISHED[kind][:2] for kind in others} == others


@pytest.mark.parametrize("stem", find_cases(CASES), ids=lambda stem: f"{stem.parent.name}-{stem.name}")
def test_our_copy_passes(stem):
    result = run_case(stem)
    assert result["status"] == "passed", result["why"]
    assert result["largest"]


def test_the_copy_is_small():
    assert sum(path.stat().st_size for path in CASES.rglob("*") if path.is_file()) < 8 * 2**20


def run(folder: Path, *options: object) -> Job:
    return Job("train.golden", folder, *options, folder=folder)


def test_the_command_writes_json_and_fails_on_an_error_above_its_bound(case, tmp_path):
    tensors = load_file(case.with_suffix(".safetensors"))
    tensors["razor.loss.1"] *= 1.001
    save_file(tensors, case.with_suffix(".safetensors"))
    (tmp_path / "elsewhere").mkdir()
    for ending in ("json", "safetensors"):
        shutil.copy(CASES / "pkd" / f"pkd_constant_channel.{ending}", tmp_path / "elsewhere" / f"other_case.{ending}")
    facts = json.loads((tmp_path / "elsewhere" / "other_case.json").read_text())
    facts["group"] = "nobody_knows"
    (tmp_path / "elsewhere" / "other_case.json").write_text(json.dumps(facts))
    (tmp_path / "index.json").write_text('{"files": []}')
    done = run(tmp_path, "--json", tmp_path / "results.txt")
    assert done.wait() == 1
    assert "1 failed, 1 not runnable" in done.output
    results = json.loads((tmp_path / "results.txt").read_text())["cases"]
    assert set(results) == {"pkd/pkd_constant_channel", "elsewhere/other_case"}
    failed = results["pkd/pkd_constant_channel"]
    assert failed["status"] == "failed"
    assert failed["largest"]["razor.loss"] == pytest.approx(0.001, rel=0.01)
    assert "razor.loss" in failed["why"]
    assert results["elsewhere/other_case"]["status"] == "not runnable"
    assert "nobody_knows" in results["elsewhere/other_case"]["why"]


def test_what_is_damaged_is_named(case):
    facts = json.loads(case.with_suffix(".json").read_text())
    tensors = load_file(case.with_suffix(".safetensors"))

    def why() -> str:
        result = run_case(case)
        assert result["status"] == "failed"
        return result["why"]

    del tensors["in.teacher.1"]
    save_file(tensors, case.with_suffix(".safetensors"))
    assert why() == "pkd/pkd_constant_channel: the tensor 'in.teacher.1' is missing in pkd_constant_channel.safetensors"
    tensors["in.teacher.1"] = torch.zeros(1)
    save_file(tensors, case.with_suffix(".safetensors"))
    assert "the tensor 'in.teacher.1' has shape [1], its JSON says [2, 16, 3, 4]" in why()
    case.with_suffix(".safetensors").write_bytes(b"nothing")
    assert "pkd_constant_channel.safetensors is damaged" in why()
    case.with_suffix(".safetensors").unlink()
    assert "pkd_constant_channel.safetensors is missing" in why()
    assert find_cases(case.parent) == [case]
    case.with_suffix(".json").write_text(json.dumps(facts)[:-9])
    assert "pkd_constant_channel.json is not JSON" in why()


def test_a_json_without_what_the_case_needs_is_named(case):
    facts = json.loads(case.with_suffix(".json").read_text())
    del facts["config"]
    case.with_suffix(".json").write_text(json.dumps(facts))
    assert run_case(case)["why"] == "pkd_constant_channel: its JSON has no 'config'"


def test_a_folder_without_cases_is_an_error(tmp_path):
    done = run(tmp_path)
    assert done.wait() == 2
    assert "holds no cases" in done.output


def test_errors_are_measured_as_their_bound_says():
    one = torch.ones(3)
    apart = torch.tensor([1.0, 1.0, 1.5])

    def largest(got, expected, bound):
        return judge([Check("q", got, expected, bound)])[0]["q"]

    assert largest(apart, one, EXACT) == 1
    assert largest(apart, 2 * one, LOSS) == 0.5
    assert largest(apart, one, Bound("absolute", 1)) == 0.5
    assert largest(torch.tensor([0.011, 10]), torch.tensor([0.01, 10]), Bound("each", 1)) == pytest.approx(0.05)
    assert largest(one[:2], one, LOSS) == float("inf")
    assert largest(one, torch.tensor([1.0, float("nan"), 1]), LOSS) == float("inf")
    nan = torch.tensor([float("nan")])
    assert largest(nan, nan, LOSS) == 0
    assert judge([Check("q", apart, one, LOSS)])[1] == ["q: 0.5 above 2e-05"]

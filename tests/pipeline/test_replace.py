"""files/replace.py: whole or not at all."""

from pathlib import Path

import pytest

from pipeline.files.replace import replacing


def test_a_file_appears_whole_in_a_folder_that_is_made(tmp_path: Path):
    path = tmp_path / "new" / "figures.json"
    with replacing(path) as temporary:
        temporary.write_text("1")
        assert not path.exists()
    assert path.read_text() == "1"
    assert [each.name for each in path.parent.iterdir()] == ["figures.json"]


@pytest.mark.parametrize("failure", [OSError("the disk is full"), KeyboardInterrupt()])
def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path: Path, failure: BaseException):
    path = tmp_path / "figures.json"
    path.write_text("old")

    def write_half() -> None:
        with replacing(path, tmp_path / "place") as temporary:
            assert temporary == tmp_path / "place"
            temporary.write_text("ne")
            raise failure

    with pytest.raises(type(failure)):
        write_half()
    assert path.read_text() == "old"
    assert [each.name for each in tmp_path.iterdir()] == ["figures.json"]

"""A checkpoint by itself: whole, of its configuration, or refused."""

from pathlib import Path

import pytest
import torch

from kd_hpo.errors import CheckpointMismatch
from kd_hpo.trial.checkpoint import config_digest, load_checkpoint, save_checkpoint
from tests.conftest import digits_trial


def test_comes_back_bit_for_bit(tmp_path: Path) -> None:
    state = {"w": torch.randn(3), "step": 7, "names": ["a"], "nested": {"b": torch.tensor(True)}}
    save_checkpoint(tmp_path / "c.pt", digits_trial(), state)
    found = load_checkpoint(tmp_path / "c.pt", digits_trial())
    assert found is not None and found.keys() == state.keys()
    assert torch.equal(found["w"], state["w"]) and (found["step"], found["names"]) == (7, ["a"])


def test_none_where_there_is_no_file(tmp_path: Path) -> None:
    assert load_checkpoint(tmp_path / "c.pt", digits_trial()) is None


@pytest.mark.parametrize("at", [0, 31, 32, 200, -1])
def test_one_changed_byte_is_seen(tmp_path: Path, at: int) -> None:
    save_checkpoint(tmp_path / "c.pt", digits_trial(), {"w": torch.randn(300)})
    content = bytearray((tmp_path / "c.pt").read_bytes())
    content[at] ^= 1
    (tmp_path / "c.pt").write_bytes(content)
    with pytest.raises(CheckpointMismatch, match=r"c\.pt"):
        load_checkpoint(tmp_path / "c.pt", digits_trial())


def test_any_other_setting_is_another_trial(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "c.pt", digits_trial(), {})
    for changes in ({"seed": 1}, {"kd": {"weight": 0.5}}):
        assert config_digest(digits_trial(**changes)) != config_digest(digits_trial())
        with pytest.raises(CheckpointMismatch, match="another configuration"):
            load_checkpoint(tmp_path / "c.pt", digits_trial(**changes))


def test_is_written_by_whom_it_is_given_to(tmp_path: Path) -> None:
    written: list[Path] = []
    save_checkpoint(tmp_path / "c.pt", digits_trial(), {}, lambda path, content: written.append(path))
    assert written == [tmp_path / "c.pt"] and not (tmp_path / "c.pt").exists()

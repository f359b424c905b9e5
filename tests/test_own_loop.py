"""The examples of studies/own_loop run, each with its library where that is installed."""

import os
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch

HERE = Path(__file__).parents[1] / "studies" / "own_loop"


@pytest.mark.parametrize(
    ("example", "library"),
    [
        ("plain", "torch"),
        ("timm_loop", "timm"),
        pytest.param("lightning_callback", "lightning", marks=pytest.mark.slow),
        pytest.param("hugging_face_trainer", "transformers", marks=pytest.mark.slow),
    ],
)
def test_example_learns_lambda(example: str, library: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip(library, reason=f"{library} is not installed: pip install 'kd_hpo[own-loop]'")
    monkeypatch.syspath_prepend(str(HERE))
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    settings: dict[str, Any] = {"epochs": 2}
    if example == "lightning_callback":
        settings |= {
            "accelerator": "cpu",
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "default_root_dir": tmp_path,
        }
    elif example == "hugging_face_trainer":
        settings |= {"folder": str(tmp_path)}
        monkeypatch.setitem(os.environ, "ACCELERATE_USE_CPU", "true")
    reached, kd = import_module(example).main(**settings)
    assert reached > (0.05 if example == "hugging_face_trainer" else 0.2)  # in two epochs a transformer learns nothing
    state = kd.state_dict()
    assert (state["step"], state["epoch"]) == (30, 2)
    assert float(state["pairs"]["weighting"]["length"]) > 0, "lambda has heard of no outer batch"
    assert kd.weights.sum() == pytest.approx(1) and kd.scales.max() > 0


def test_no_example_is_left_out() -> None:
    (marked,) = (m for m in test_example_learns_lambda.pytestmark if m.name == "parametrize")
    cases = {(each.values if hasattr(each, "values") else each)[0] for each in marked.args[1]}
    assert cases == {path.stem for path in HERE.glob("*.py")} - {"small_digits"}
    assert all(len((HERE / f"{case}.py").read_text().splitlines()) < 110 for case in cases)
    assert "small_digits" not in sys.modules or str(HERE) in sys.modules["small_digits"].__file__

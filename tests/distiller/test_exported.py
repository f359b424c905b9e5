"""A matrix of an export teaches the layers that it was learned for, and no others."""

from pathlib import Path

import pytest
import torch
from torch import nn

from kd_hpo.config.training import WarmUp
from kd_hpo.distiller.distiller import Distiller
from kd_hpo.distiller.exported import arguments_of
from kd_hpo.errors import ExportError, FeatureMismatch
from kd_hpo.study.store.export_file import load_export
from tests.distiller.loops import Net, batch
from tests.study.exports import exported as exported


@pytest.fixture
def fitted(exported: Path, tmp_path: Path) -> Path:
    """The export with layers of the tests' own networks."""
    export = load_export(exported)
    sizes = {"one": (8, 8), "two": (4, 4), "norm": (4, 4)}
    layers = {
        "teacher_layers": [{"name": name, "shape": (5, *sizes[name])} for name in ("one", "two", "norm")],
        "student_layers": [{"name": name, "shape": (3, *sizes[name])} for name in ("one", "two")],
    }
    path = tmp_path / "lambda.json"
    path.write_text(export.replace(matrices=[export.matrices[0].replace(**layers).model_dump()]).model_dump_json())
    return path


def test_an_export_teaches_networks_of_its_layers(fitted: Path) -> None:
    entry, (x, y) = load_export(fitted).matrices[0], batch(0)
    kd = Distiller.from_export(fitted, Net(5, 0), Net(3, 1), x)
    assert kd.layers == (("one", "two", "norm"), ("one", "two"))
    torch.testing.assert_close(kd.weights, torch.tensor(entry.held_mean))
    assert kd.scales.tolist() == torch.tensor(entry.scales).tolist()
    taught = kd(x, y)
    assert taught.loss.isfinite() and taught.pair_losses.shape == (3, 2)


def test_a_replayed_matrix_follows_epochs(fitted: Path) -> None:
    entry, x = load_export(fitted).matrices[0], batch(0)[0]
    with pytest.raises(ExportError, match="give epochs"):
        Distiller.from_export(fitted, Net(5, 0), Net(3, 1), x, form="replayed")
    kd = Distiller.from_export(fitted, Net(5, 0), Net(3, 1), x, form="replayed", epochs=len(entry.trajectory))
    found = [kd.end_epoch() for _ in entry.trajectory]
    torch.testing.assert_close(torch.stack(found), torch.tensor(entry.trajectory))


@pytest.mark.parametrize(("epochs", "counted"), [(None, 1), (60, 15)])
def test_a_warm_up_over_a_share_of_the_trial_is_counted_in_epochs(fitted: Path, epochs: int | None, counted: int) -> None:
    """In those of the trial, or in those that are given."""
    entry = load_export(fitted).matrices[0]
    quarter = {"schedule": {"kind": "warm_up", "epochs": 0.25}}
    config = entry.config.replace(kd={**entry.config.kd.model_dump(), **quarter}, training={"epochs": 4}).model_dump()
    found = arguments_of(entry.replace(config=config), "held", epochs, {}, with_task=True)
    assert found["kd"].schedule == WarmUp(epochs=counted)
    assert found["pairs"].schedule is None


def test_other_networks_are_refused_by_the_layer(fitted: Path) -> None:
    x, other = batch(0)[0], nn.Sequential(nn.Conv2d(1, 8, 3), nn.Flatten(), nn.Linear(288, 3))
    with pytest.raises(FeatureMismatch, match=r"student layer one .*3x8x8 in the export"):
        Distiller.from_export(fitted, Net(5, 0), Net(4, 1), x)
    with pytest.raises(FeatureMismatch, match=r"teacher layer one .*5x8x8 in the export"):
        Distiller.from_export(fitted, Net(4, 0), Net(3, 1), x)
    with pytest.raises(FeatureMismatch, match=r"teacher: .* has no layer 'one'"):
        Distiller.from_export(fitted, other, Net(3, 1), x)


def test_code_that_an_export_names_is_not_run(fitted: Path) -> None:
    own = fitted.read_text().replace('"kind":"gaussian"', '"kind":"callable","callable":"os:getcwd"')
    own = own.replace('"regressor":"linear","variance":{"kind":"learned","start":0.7,"floor":0.001}', '"options":{}')
    fitted.write_text(own)
    with pytest.raises(ExportError, match=r"pairs.loss.callable = 'os:getcwd'"):
        Distiller.from_export(fitted, Net(5, 0), Net(3, 1), batch(0)[0])

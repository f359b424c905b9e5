"""A student's agreement with its teacher, against numpy: on val, on images of no split, and on a folder of images."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import nn

from kd_hpo.config.data import Digits
from kd_hpo.config.trial import Assistant, Network, Training, TrialConfig
from kd_hpo.errors import ConfigError, DataError, Diverged, Note
from kd_hpo.nets.weights import load_weights
from kd_hpo.trial import agreement as module
from kd_hpo.trial.agreement import opinion_of
from kd_hpo.trial.check import check_trial
from kd_hpo.trial.data import load_data, load_unlabelled
from kd_hpo.trial.loop import LAST_WEIGHTS
from kd_hpo.trial.parts import Prepared, build
from kd_hpo.trial.prepare import prepare
from kd_hpo.trial.result import EpochRecord
from kd_hpo.trial.run import run_trial
from tests.conftest import digits_trial

EXTRA = Digits(unlabelled="extra", unlabelled_images=50)


def logits(network: nn.Module, x: torch.Tensor) -> NDArray[np.float64]:
    with torch.no_grad():
        return network.eval()(x).double().numpy()


def log_softmax(z: NDArray[np.float64]) -> NDArray[np.float64]:
    return z - z.max(1, keepdims=True) - np.log(np.exp(z - z.max(1, keepdims=True)).sum(1, keepdims=True))


def kl(teacher: NDArray[np.float64], student: NDArray[np.float64]) -> float:
    log_p, log_q = log_softmax(teacher), log_softmax(student)
    return float((np.exp(log_p) * (log_p - log_q)).sum(1).mean())


def trained(config: TrialConfig, prepared: Prepared, folder: Path) -> tuple[nn.Module, list[EpochRecord]]:
    """The student after the last epoch, and what was recorded."""
    records: list[EpochRecord] = []
    run_trial(config, records.append, cache=prepared.cache, folder=folder, prepared=prepared)
    student = build(config.student.network, prepared.batches, prepared.task, seed=0)
    load_weights(student, folder / LAST_WEIGHTS)
    return student, records


@pytest.mark.parametrize("recipe", [{}, {"ema": {"decay": 0.9}}], ids=["as it is", "its average"])
def test_it_is_the_mean_kl_to_the_teacher_on_val_and_on_images_of_no_split(
    cache: Path, tmp_path: Path, recipe: dict[str, object]
) -> None:
    """Of the weights that are written: where an average is kept, of that."""
    told: list[str] = []
    config = digits_trial(data=EXTRA, training={"epochs": 4, "batch_size": 32, **recipe})
    prepared = prepare(config, cache, told.append)
    assert [line for line in told if isinstance(line, Note) and "unlabelled" in line] == [
        f"of {len(prepared.splits.extra)} unlabelled images 50 are drawn (data.unlabelled_images)"
    ]
    student, records = trained(config, prepared, tmp_path)
    drawn = prepared.opinions["unlabelled"].images
    assert len(drawn) == 50 and set(drawn) < set(prepared.splits.extra)
    for name, images in (("val", prepared.splits.val), ("unlabelled", drawn)):
        x = prepared.batches.inputs(images)
        expected = kl(logits(prepared.teacher.network, x), logits(student, x))
        assert records[-1].metrics[f"{name}/agreement"] == pytest.approx(expected, rel=1e-4)
        assert len({record.metrics[f"{name}/agreement"] for record in records}) == config.training.epochs


def test_it_changes_nothing_else(tmp_path: Path, prepared: Prepared) -> None:
    config = digits_trial(weighting={"kind": "none"})
    with_it, without = (
        trained(config, each, tmp_path / name)[1]
        for name, each in (("with", prepared), ("without", replace(prepared, opinions={})))
    )
    assert [{**r.metrics, "val/agreement": 0} for r in with_it] == [{**r.metrics, "val/agreement": 0} for r in without]
    assert all("val/agreement" in record.metrics for record in with_it)
    assert not any("val/agreement" in record.metrics for record in without)


def test_what_is_drawn_hangs_on_the_seed_of_the_splits(cache: Path) -> None:
    def drawn(seed: int) -> tuple[int, ...]:
        config = digits_trial(data=EXTRA, splits={"train": 240, "outer": 120, "val": 120, "test": 200, "seed": seed})
        batches, splits = load_data(config, cache, lambda _: None)
        found = load_unlabelled(config, batches, splits, cache, lambda _: None)
        assert found is not None and set(found[1]) <= set(splits.extra)
        return tuple(found[1])

    assert drawn(0) == drawn(0) != drawn(1)


def test_a_folder_is_read_as_the_data_is(cache: Path, tmp_path: Path, prepared: Prepared) -> None:
    """The same images, by another way: some of those that no split holds, as files."""
    some = prepared.splits.extra[:20]
    for number, image in enumerate(some):
        file = tmp_path / "images" / f"{number % 3}" / "deeper" / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.asarray(prepared.batches.images.images[image])[0]).save(file)
    here = prepare(digits_trial(data=Digits(unlabelled=tmp_path / "images")), cache).opinions["unlabelled"]
    order = [int(file.stem) for file in sorted((tmp_path / "images").rglob("*.png"))]
    x, expected = here.batches.inputs(here.images), prepared.batches.inputs(some[order])
    assert torch.equal(x, expected)
    np.testing.assert_allclose(here.outputs.numpy(), logits(prepared.teacher.network, expected), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("how", [{"normalise": "none"}, {"normalise": {"mean": 0.5, "std": 0.5}}], ids=["none", "given"])
def test_the_teacher_reads_images_as_it_does_otherwise(tmp_path: Path, how: dict[str, object]) -> None:
    teacher = digits_trial().teacher.replace(**how)
    prepared = prepare(digits_trial(teacher=teacher), tmp_path)
    plain = build(teacher.network, prepared.batches, prepared.task, seed=0)
    assert prepared.teacher.weights is not None
    load_weights(plain, prepared.teacher.weights)
    pixels = torch.from_numpy(np.asarray(prepared.batches.images.images)[prepared.splits.val]).float() / 255
    x = pixels if how["normalise"] == "none" else (pixels - 0.5) / 0.5
    np.testing.assert_allclose(prepared.opinions["val"].outputs.numpy(), logits(plain, x), rtol=1e-3, atol=1e-3)


def test_the_studys_own_teacher_is_agreed_with_where_an_assistant_teaches(cache: Path, prepared: Prepared) -> None:
    network = Network(name="plain_conv", arguments={"channels": [6, 12], "hidden": 12, "padding": 1})
    config = digits_trial(
        assistants=(Assistant(network=network, layers=("conv1", "fc"), training=Training(epochs=1, batch_size=32)),)
    )
    taught = prepare(config, cache)
    assert taught.teacher_digest != prepared.teacher_digest
    assert torch.equal(taught.opinions["val"].outputs, prepared.opinions["val"].outputs)


def test_it_is_computed_once_for_a_teacher(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = prepare(digits_trial(data=EXTRA), cache).opinions
    monkeypatch.setattr(module, "_write", lambda *_: pytest.fail("computed again"))
    again = prepare(digits_trial(data=EXTRA, student=digits_trial().student, seed=3), cache).opinions
    assert all(torch.equal(first[name].outputs, again[name].outputs) for name in ("val", "unlabelled"))


def test_a_trial_whose_agreement_is_not_finite_diverges(prepared: Prepared) -> None:
    val = prepared.opinions["val"]
    broken = replace(prepared, opinions={"val": replace(val, outputs=torch.full_like(val.outputs, float("nan")))})
    with pytest.raises(Diverged, match="val agreement nan"):
        run_trial(digits_trial(), lambda _: None, cache=prepared.cache, prepared=broken)


def test_a_teacher_that_gives_no_numbers_is_refused(tmp_path: Path, prepared: Prepared) -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    nn.init.constant_(network[1].bias, float("nan"))
    with pytest.raises(ConfigError, match="no number for 5 of 5 images of val"):
        opinion_of(network.eval(), prepared.batches, prepared.splits.val[:5], tmp_path, "images of val")


def test_no_image_is_left_is_told_before_a_teacher_is_trained(cache: Path, tmp_path: Path) -> None:
    config = digits_trial(data=Digits(unlabelled="extra"), splits={"outer": 120, "val": 120, "test": 200})
    batches, splits = load_data(config, cache, lambda _: None)
    with pytest.raises(DataError, match="the splits take all"):
        check_trial(config, batches, splits, tmp_path)


def test_a_result_says_which_images_were_drawn(cache: Path, prepared: Prepared) -> None:
    assert "unlabelled" not in prepared.split_digests
    fifty, forty = (
        prepare(digits_trial(data=Digits(unlabelled="extra", unlabelled_images=count)), cache).split_digests["unlabelled"]
        for count in (50, 40)
    )
    assert fifty != forty


def test_settings_without_are_written_as_before() -> None:
    assert {"unlabelled", "unlabelled_images"}.isdisjoint(digits_trial().model_dump()["data"])

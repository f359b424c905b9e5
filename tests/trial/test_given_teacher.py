"""A teacher of one's own: it reads images as it was trained to, what it returns is logits, and none may know little."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from kd_hpo.config.trial import TrialConfig
from kd_hpo.errors import ConfigError, Note
from kd_hpo.trial.data import load_data
from kd_hpo.trial.parts import Prepared, build_teacher, task_of
from kd_hpo.trial.prepare import prepare
from tests.conftest import digits_trial

NEAREST = """
import torch
from sklearn.datasets import load_digits
from torch import nn

def network(input_shape, classes, softmax=False):
    '''Answers by the nearest class mean of pixels / 255.'''
    digits = load_digits()
    means = torch.stack([torch.tensor(digits.data[digits.target == k]).mean(0) for k in range(10)]).float() / 16
    layer = nn.Linear(64, 10)
    layer.weight.data, layer.bias.data = means, -0.5 * means.square().sum(1)
    return nn.Sequential(nn.Flatten(), layer, *[nn.Softmax(1)] * softmax)
"""


@pytest.fixture(autouse=True)
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "nearest_mean.py").write_text(NEAREST)
    monkeypatch.syspath_prepend(str(tmp_path))


def taught(name: str = "nearest_mean:network", arguments: dict[str, Any] | None = None, **changes: object) -> TrialConfig:
    """Without pairs, by a network that is taken as it is built."""
    network = {"name": name, "arguments": arguments or {}}
    teacher = digits_trial().teacher.model_dump() | {"network": network, "layers": "auto", "training": None} | changes
    return digits_trial(teacher=teacher, weighting={"kind": "none"})


def test_a_teacher_reads_what_its_own_script_gave_it(tmp_path: Path) -> None:
    """Distances to the means of pixels / 255, in numpy."""
    from sklearn.datasets import load_digits

    told: list[str] = []
    ready = prepare(taught(normalise="none"), tmp_path / "cache", told.append)
    digits, val = load_digits(), ready.splits.val
    means = np.stack([digits.data[digits.target == k].mean(0) for k in range(10)])
    right = ((digits.data[val][:, None] - means) ** 2).sum(2).argmin(1) == digits.target[val]
    assert ready.teacher.val.value == pytest.approx(right.mean())
    assert right.mean() > 0.8
    (note,) = (words for words in told if isinstance(words, Note))
    assert all(words in note for words in ("nearest_mean:network", "pixels / 255 (none)", f"{right.mean():.4f} (120 images)"))
    images = ready.splits.train[:5]
    logits = ready.targets.logits(images, ready.batches.inputs(images))
    pixels = digits.data[images] / 16
    expected = pixels @ (means / 16).T - 0.5 * ((means / 16) ** 2).sum(1)
    torch.testing.assert_close(logits, torch.from_numpy(expected).float(), atol=0.02, rtol=0)  # levels are whole numbers of 255


def test_one_that_would_be_far_better_otherwise_is_refused_with_how_unless_the_study_says_how_it_reads(tmp_path: Path) -> None:
    wrong = {"mean": 0.9, "std": 1.0}
    by_default = taught().replace(data={"kind": "digits", "normalise": wrong})
    with pytest.raises(ConfigError, match=r"With teacher.normalise: none it reaches 0\.\d+.*accept_weak: true") as caught:
        prepare(by_default, tmp_path)
    assert "\n" not in str(caught.value)
    told: list[str] = []
    assert prepare(taught(normalise=wrong), tmp_path, told.append).teacher.val.value < 0.85
    assert any("With teacher.normalise: none it reaches" in words for words in told if isinstance(words, Note))


def test_one_that_knows_nothing_is_refused_and_what_was_found_good_is_not_asked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match=r"hardly better than the same answer .* No other normalisation .*order of the classes"):
        prepare(taught("plain_conv", {"channels": [4], "hidden": 4}), tmp_path)
    prepare(taught(normalise="none"), tmp_path)
    (kept,) = tmp_path.glob("teacher-judged-*.json")
    assert json.loads(kept.read_text())["val/accuracy"] > 0.8
    monkeypatch.setattr("kd_hpo.trial.given_teacher.Judge._judge", lambda *_, **__: pytest.fail("judged again"))
    prepare(taught(normalise="none"), tmp_path)


def test_probabilities_are_refused_or_become_logits(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"probabilities.*teacher\.returns: probabilities"):
        prepare(taught(arguments={"softmax": True}, normalise="none"), tmp_path)
    given = prepare(taught(arguments={"softmax": True}, normalise="none", returns="probabilities"), tmp_path)
    plain = prepare(taught(normalise="none"), tmp_path)
    images = plain.splits.train[:8]
    expected = plain.targets.logits(images, plain.batches.inputs(images)).log_softmax(1)
    torch.testing.assert_close(given.targets.logits(images, given.batches.inputs(images)), expected, rtol=1e-4, atol=1e-4)
    assert given.teacher.val.loss == pytest.approx(plain.teacher.val.loss, rel=1e-4)


def test_both_see_the_same_views(tmp_path: Path) -> None:
    """A teacher on line, whose inputs are caught, and the student's, brought back to levels."""
    config = taught(normalise={"mean": 0.25, "std": 0.5}, accept_weak=True).replace(augment=("crop", "flip"))
    ready = prepare(config, tmp_path)
    caught: list[Tensor] = []
    ready.teacher.network[0].register_forward_pre_hook(lambda module, arguments: caught.append(arguments[0]))
    x = ready.batches.inputs(ready.splits.train[:6]).flip(3)
    ready.targets.logits(ready.splits.train[:6], x)
    levels = x * ready.batches.std + ready.batches.mean
    torch.testing.assert_close(caught[-1], (levels / 255 - 0.25) / 0.5, rtol=1e-4, atol=1e-5)


def test_a_teacher_trained_here_may_read_otherwise_too(tmp_path: Path, prepared: Prepared) -> None:
    """As the data's normalisation it is the same teacher as before; otherwise it is another one, and so is one of other data."""
    plain = digits_trial().teacher
    digests = [
        prepare(
            digits_trial(data={"kind": "digits", "normalise": data}, teacher=plain.replace(normalise=own).model_dump()), tmp_path
        )
        for data, own in (("train", "train"), ("train", "none"), ("none", "data"), ("none", "none"))
    ]
    same, otherwise, of_data, alike = [each.teacher for each in digests]
    assert digests[0].teacher_digest == prepared.teacher_digest and same.val == prepared.teacher.val
    assert len({each.teacher_digest for each in digests[:3]}) == 3
    assert (alike.weights, alike.val) == (of_data.weights, of_data.val)
    assert str(otherwise.reads) == str(of_data.reads) == "pixels / 255 (none)"


@pytest.mark.parametrize(("name", "mean"), [("torchvision/resnet18", (0.485 + 0.456 + 0.406) / 3), ("timm/resnet18", 0.449)])
def test_what_a_library_says_of_its_weights(tmp_path: Path, name: str, mean: float) -> None:
    config = taught(name, {"stem": "small"}, normalise="weights")
    batches, _ = load_data(config, tmp_path, lambda _: None)
    _, reads = build_teacher(config, batches)
    assert reads.mean == pytest.approx((255 * mean,), rel=1e-3)
    with pytest.raises(ConfigError, match=r"no network of torchvision or timm .*\{mean: \.\.\., std: \.\.\.\}"):
        build_teacher(taught(normalise="weights"), batches)


def test_a_script_module_takes_no_normalisation_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "scripted_net.py").write_text(
        "import torch\nfrom torch import nn\n\n"
        "def network(input_shape, classes):\n    made = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))\n"
        "    return torch.jit.trace(made, torch.zeros(2, 1, 8, 8))\n"
    )
    config = taught("scripted_net:network", normalise="none")
    batches, _ = load_data(config, tmp_path, lambda _: None)
    with pytest.raises(ConfigError, match=r"teacher\.normalise cannot .* TorchScript"):
        build_teacher(config, batches)


def test_balanced_weights_are_of_the_train_split(prepared: Prepared, tmp_path: Path) -> None:
    config = digits_trial(task={"class_weights": "balanced"})
    labels = prepared.batches.images.labels[prepared.splits.train]
    expected = 240 / (10 * np.bincount(labels))
    assert task_of(config, prepared.batches).class_weights == pytest.approx(expected.tolist())  # type: ignore[attr-defined]

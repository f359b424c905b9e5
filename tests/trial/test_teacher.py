"""The teacher: trained once, kept by content, read from a file where one is given; the test split is never seen by it."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from kd_hpo.core.tasks import Classification, Reduction, Task
from kd_hpo.errors import ConfigError, DataError
from kd_hpo.nets.weights import save_weights
from kd_hpo.trial import teacher as module
from kd_hpo.trial.data import choose_device
from kd_hpo.trial.parts import Prepared, build
from kd_hpo.trial.prepare import prepare
from kd_hpo.trial.teacher import trained_teacher
from tests.conftest import digits_trial


def test_trained_once_and_kept(cache: Path, prepared: Prepared, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "train_teacher", lambda *_: pytest.fail("trained again"))
    again = prepare(digits_trial(seed=5), cache)  # the student's seed is not the teacher's
    assert again.teacher_digest == prepared.teacher_digest
    assert again.teacher.val == prepared.teacher.val


RECIPES = [
    {"label_smoothing": 0.1},
    {"clip_norm": 0.5},
    {"ema": {"decay": 0.9}},
    {"decayed": "matrices"},
    {"lr_schedule": {"kind": "multi_step", "milestones": [0.5]}},
]


@pytest.mark.parametrize("change", [
    {"seed": 1},
    {"augment": ("flip",)},
    {"images": "train_and_extra"},
    {"augment": ({"name": "RandomErasing", "arguments": {"p": 1.0}},)},
    *({"training": {"epochs": 4, "batch_size": 32, **recipe}} for recipe in RECIPES),
])  # fmt: skip
def test_other_settings_are_another_teacher(cache: Path, prepared: Prepared, change: dict[str, object]) -> None:
    other = digits_trial(teacher=digits_trial().teacher.replace(**change).model_dump())
    assert prepare(other, cache).teacher_digest != prepared.teacher_digest


def test_weights_from_a_file(tmp_path: Path, cache: Path, prepared: Prepared) -> None:
    save_weights(prepared.teacher.network.state_dict(), tmp_path / "teacher.safetensors")
    given = digits_trial(teacher=digits_trial().teacher.replace(weights=tmp_path / "teacher.safetensors").model_dump())
    assert prepare(given, cache).teacher_digest == prepared.teacher_digest


def test_teacher_learns(prepared: Prepared) -> None:
    assert prepared.teacher.val.value > 0.3  # chance is 0.1


def test_too_few_images_for_a_batch(cache: Path) -> None:
    training = {"epochs": 1, "batch_size": 1000}
    with pytest.raises(DataError, match=r"240 images, .* 1000"):
        prepare(digits_trial(teacher=digits_trial().teacher.replace(training=training).model_dump()), cache)


def test_progress_is_told_in_words(tmp_path: Path) -> None:
    told: list[str] = []
    prepare(digits_trial(), tmp_path, told.append)
    assert "training the teacher: epoch 1 of 4" in told
    last = ["reading the teacher's features", "the teacher's features of 240 training images take 0.33 MB in the cache"]
    assert [words for words in told if words in last] == last


def test_cuda_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert choose_device("auto").type == "cpu"
    with pytest.raises(ConfigError, match="no CUDA device"):
        choose_device("cuda")


DROPPING = """
from torch import nn

def network(input_shape, classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.{act}(), nn.Dropout(0.5), nn.Linear(16, classes))
"""


def test_teacher_with_dropout_comes_out_the_same_and_its_code_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    given = digits_trial().teacher

    def told(module: str, act: str, training: dict[str, object] | None, seed: int) -> tuple[str, float]:
        (tmp_path / f"{module}.py").write_text(DROPPING.format(act=act))
        teacher = {
            **given.model_dump(),
            "network": {"name": f"{module}:network"},
            "layers": "auto",
            "training": training,
            "accept_weak": True,
        }
        torch.manual_seed(seed)
        prepared = prepare(digits_trial(teacher=teacher), tmp_path / f"cache-{seed}")
        images = prepared.splits.train[:8]
        return prepared.teacher_digest, float(prepared.targets.logits(images, prepared.batches.inputs(images)).sum())

    training = {"epochs": 1, "batch_size": 32}
    assert told("dropping_one", "ReLU", training, 0) == told("dropping_one", "ReLU", training, 1)
    # Without training the weights are the same, and what they compute is not: nothing comes from the other's cache.
    relu, gelu = told("dropping_two", "ReLU", None, 2), told("dropping_three", "GELU", None, 2)
    assert relu[0] == gelu[0]
    assert relu[1] != gelu[1]


def test_a_cached_teacher_that_is_cut_short_is_trained_again(tmp_path: Path) -> None:
    first = prepare(digits_trial(), tmp_path).teacher
    assert first.weights is not None
    whole = first.weights.read_bytes()
    first.weights.write_bytes(whole[:1000])
    assert prepare(digits_trial(), tmp_path).teacher.val == first.val
    assert first.weights.read_bytes() == whole


class Halved(Classification):
    """As many outputs, and another loss."""

    def loss(self, output: Tensor, labels: Tensor, reduction: Reduction = "mean") -> Tensor:
        return 0.5 * super().loss(output, labels, reduction)


def test_a_teacher_of_another_task_is_another_one(tmp_path: Path, prepared: Prepared) -> None:
    teacher = digits_trial().teacher

    def trained(task: Task) -> Path | None:
        network = build(teacher.network, prepared.batches, task, seed=0)
        return trained_teacher(network, teacher, task, prepared.batches, prepared.splits, tmp_path, lambda _: None).weights

    assert trained(Classification(10)) == trained(Classification(10)) != trained(Halved(10))

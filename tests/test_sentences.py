"""Every sentence that a user may meet, word for word, in one file: tests/__snapshots__/test_sentences.ambr.

A case provokes one error or line in an empty folder; other tests assert types and key facts, so that words are written down once.
After a change of words: `pytest tests/test_sentences.py --snapshot-update`, and read the difference as a user would. Cases that
quote Python or a library are left out where their words change from version to version.
"""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from syrupy.assertion import SnapshotAssertion
from torch import nn

from kd_hpo.callables import import_callable
from kd_hpo.config.load import with_settings
from kd_hpo.core.directions import Implicit
from kd_hpo.core.logit_losses import logit_loss
from kd_hpo.core.maps import layer_shape
from kd_hpo.core.pair_losses import pair_loss
from kd_hpo.core.plan import LayerShape, pair_plan
from kd_hpo.core.tasks import Classification
from kd_hpo.data.datasets import ImageSet, load_image_folder
from kd_hpo.data.items import Items
from kd_hpo.data.normalise import of_unit_pixels
from kd_hpo.data.pixels import raw_image
from kd_hpo.data.splits import make_splits
from kd_hpo.data.unlabelled import load_unlabelled_folder
from kd_hpo.errors import KdHpoError
from kd_hpo.nets.adapt import shrink_stem
from kd_hpo.nets.features import FeatureTap
from kd_hpo.nets.layer_names import resolve_layers
from kd_hpo.nets.network_list import networks_like
from kd_hpo.nets.outputs import TakeOutput, require_output
from kd_hpo.nets.proposal import propose_layers
from kd_hpo.nets.weights import load_weights, save_weights
from kd_hpo.nets.zoo import build_network
from kd_hpo.study.design.study_file import load_study
from kd_hpo.study.environment import prepare_environment
from kd_hpo.study.store.export_file import load_export
from kd_hpo.study.store.folder import StudyFolder
from kd_hpo.trial.data import choose_device
from kd_hpo.trial.loop import CHECKPOINT
from kd_hpo.trial.parts import Prepared
from kd_hpo.trial.prepare import prepare
from kd_hpo.trial.run import run_trial
from kd_hpo.trial.student_alone import Alone, require_better_than_student
from kd_hpo.trial.weighting import served_pairs
from tests.cli.conftest import MATRIX, Command
from tests.conftest import digits_study, digits_trial
from tests.nets.test_features import Odd
from tests.study.helpers import LEARNED, add_search
from tests.study.store.test_export_file import EARLIER

prepare_environment()
pytestmark = pytest.mark.filterwarnings("ignore:Cyclopts application invoked without tokens")

Provoke = Callable[[Path], object]


def said_of(provoke: Provoke, folder: Path) -> str:
    """The kind of the error and its words, without what is of this machine or version."""
    with pytest.raises(KdHpoError) as caught:
        provoke(folder)
    return f"{type(caught.value).__name__}: {without_places(str(caught.value), folder)}"


def without_places(words: str, folder: Path) -> str:
    return re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d", "DATE AND TIME", words.replace(str(folder), "FOLDER"))


# Commands --------------------------------------------------------------------------------------------------------------------

COMMANDS: dict[str, str] = {
    "study file that is not there": "run none.yaml",
    "study file that is a folder": "run runs",
    "unknown setting": "run study.yaml --set search.trails=3",
    "override without =": "run study.yaml --set search.trials",
    "override that is no YAML": "run study.yaml --set search.trials=[",
    "override of the wrong type": "run study.yaml --set search.trials=none",
    "name that leaves the folder": "run study.yaml --set name=../x",
    "unknown method": "compare study.yaml --methods ce,vdi",
    "no methods": "compare study.yaml --methods ,",
    "no seeds": "compare study.yaml --seeds 0",
    "negative tune": "compare study.yaml --set compare.tune=-1",
    "images that are not there": "run study.yaml -q --set name=other --set data={kind: image_folder, path: /nowhere}",
    "layer that is not there": "run study.yaml -q --set name=other --set student.layers=[conv9]",
    "list without a folder": "list --runs none",
    "list of nothing": "list --runs empty",
    "list": "list",
    "show": "show small",
    "show of another study": "show smal",
    "show in another folder": "show small --runs none",
    "show of no name": "show ../x",
    "logs of another study": "logs smal hetero-t000",
    "resume under another name": "resume small --set name=other",
    "report": "report small",
    "report as pdf": "report small -o x.pdf",
    "report in the place of a folder": "report small -o there.md",
    "export": "export small",
    "export of none": "export small --top 0",
    "export in the place of a folder": "export small -o there.md",
    "apply of no file": "apply none.json",
    "apply of an empty file": "apply empty.json",
    "apply of a rank that is not there": "apply small.json --rank 7",
    "apply with an unknown setting": "apply small.json --set training.epoch=1",
    "apply of a form that an earlier export has not": "apply earlier.json --form replayed",
    "apply of a file of a later version": "apply later.json",
    "layers": "layers plain_conv --depth 1",
    "layers of no network": "layers plain_convv",
    "layers of no image": "layers plain_conv --input 32x32",
    "layers of an empty image": "layers plain_conv --input 3x0x32",
    "layers of arguments that are no mapping": "layers plain_conv --arguments [1]",
    "networks": "networks ain_con",
    "networks of a typo": "networks plain_konv",
    "networks of nothing": "networks %%%",
    "ui without a database": "ui --runs none",
    "bench without steps": "bench --steps 0",
    "bench of settings without a study": "bench --set seed=1",
}
"""By what is wrong or asked for, in a folder with a study file, a study `small` and its export; `--set` takes the rest of a word
with spaces."""


def split(line: str) -> list[str]:
    first, *rest = re.split(r" (?=--set )", line)
    return [*first.split(), *(word for each in rest for word in each.split(" ", 1))]


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Command:
    monkeypatch.setenv("COLUMNS", "120")
    run = Command(capsys, monkeypatch, tmp_path)
    study = digits_study(tmp_path / "runs", search={"trials": 4}, compare={"methods": ["ce", LEARNED], "seeds": 2})
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(json.loads(study.model_dump_json()), sort_keys=False))
    folder = StudyFolder.of(study)
    folder.write_settings(study)
    add_search(folder, LEARNED, [0.5, 0.75], MATRIX)
    for name in ("empty", "there.md"):
        (tmp_path / name).mkdir()
    (tmp_path / "empty.json").touch()
    run("export", "small", "-o", "small.json")
    (tmp_path / "earlier.json").write_bytes(EARLIER.read_bytes())
    later = json.loads((tmp_path / "small.json").read_text()) | {"schema_version": 9}
    (tmp_path / "later.json").write_text(json.dumps(later))
    return run


@pytest.mark.parametrize("what", COMMANDS)
def test_a_command_says(command: Command, what: str, snapshot: SnapshotAssertion) -> None:
    told = command(*split(COMMANDS[what]))
    lines = [line.rstrip() for line in without_places(f"{told.out}{told.err}", command.folder).splitlines()]
    assert {"command": f"kd-hpo {COMMANDS[what]}", "exit code": told.code, "says": lines} == snapshot


# Study files -----------------------------------------------------------------------------------------------------------------

FILES: dict[str, str] = {
    "empty": "",
    "a list": "- name: x",
    "not YAML": "name: [",
    "a key twice": "name: x\nname: y",
    "a tag": "name: !!python/name:os.system ''",
}
"""What is wrong with a file as a whole."""

SETTINGS: dict[str, dict[str, object]] = {
    "unknown key": {"nam": "x"},
    "missing key": {"name": None},
    "unknown kind": {"data": {"kind": "digit"}},
    "kind without its setting": {"data": {"kind": "image_folder"}},
    "setting of another kind": {"weighting": {"kind": "uniform", "step": 0.1}},
    "a share above 1": {"weighting": {"kind": "learned", "warmup": 1.5}},
    "nothing to learn in": {"weighting": {"kind": "learned", "warmup": 0.5, "hold": 0.5}},
    "an average beside evidence": {"weighting": {"kind": "learned", "evidence": True, "average": 0.5}},
    "gathering without evidence": {"weighting": {"kind": "learned", "evidence": False, "gather": 0.1}},
    "nesterov without momentum": {"training": {"epochs": 1, "optimizer": {"kind": "sgd", "momentum": 0, "nesterov": True}}},
    "variance below its floor": {
        "pairs": {"loss": {"kind": "gaussian", "variance": {"kind": "learned", "start": 1e-4, "floor": 1e-3}}}
    },
    "a range upside down": {"search": {"space": {"training.optimizer.lr": {"kind": "uniform", "low": 1, "high": 0}}}},
    "a range of an unknown setting": {"search": {"space": {"training.optimizer.rl": {"kind": "uniform", "low": 0, "high": 1}}}},
    "a range without the file's own value": {
        "search": {"space": {"training.optimizer.lr": {"kind": "loguniform", "low": 0.1, "high": 0.2}}}
    },
    "a name that is taken": {"name": "cache"},
    "a runs folder that a URI misreads": {"runs": "a?b"},
    "a URI in the place of a path": {"runs": "http://host/runs"},
    "a password in a URI": {"tracking": {"uri": "http://me:secret@host"}},
    "credentials in a place of images": {"data": {"kind": "image_folder", "path": "s3://key:secret@bucket/images"}},
    "a mean of bytes": {"data": {"kind": "digits", "normalise": {"mean": 127.5, "std": 58.0}}},
    "a normalisation of no kind": {"data": {"kind": "digits", "normalise": "imagenet"}},
    "an unlabelled folder called extra": {"data": {"kind": "digits", "unlabelled": "./extra"}},
    "an unlabelled folder that is a number": {"data": {"kind": "digits", "unlabelled": 5}},
    "a number of no unlabelled images": {"data": {"kind": "digits", "unlabelled_images": 9}},
    "a teacher that is easy to agree with": {
        "search": {"by": "agreement", "space": {"teacher.training.epochs": {"kind": "int", "low": 1, "high": 99}}}
    },
    "a milestone after the end": {"training": {"epochs": 9, "lr_schedule": {"kind": "multi_step", "milestones": [150]}}},
    "a schedule of no kind": {"training": {"epochs": 9, "lr_schedule": "multistep"}},
    "a schedule that follows a metric": {
        "training": {"epochs": 9, "lr_schedule": {"kind": "torch", "name": "ReduceLROnPlateau"}}
    },
    "an optimizer with several losses a step": {"training": {"epochs": 9, "optimizer": {"kind": "torch", "name": "LBFGS"}}},
    "a view of no kind": {"augment": ["rotate"]},
    "images mixed twice": {"augment": ["mixup", {"name": "CutMix"}]},
    "an input of no size": {
        "teacher": {"network": {"name": "resnet20"}, "layers": "auto", "input": {"interpolation": "bicubic"}}
    },
    "a loss that names no callable": {"pairs": {"loss": {"kind": "callable", "callable": "nothing"}}},
}
"""What is wrong with the settings of a file that is right but for these; None leaves one out."""


@pytest.mark.parametrize("what", FILES)
def test_a_file_is_refused_with(tmp_path: Path, what: str, snapshot: SnapshotAssertion) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(FILES[what])
    assert said_of(lambda _: load_study(path), tmp_path) == snapshot


@pytest.mark.parametrize("what", SETTINGS)
def test_settings_are_refused_with(tmp_path: Path, what: str, snapshot: SnapshotAssertion) -> None:
    path = tmp_path / "study.yaml"
    settings = json.loads(digits_study(Path("runs")).model_dump_json(exclude_unset=True)) | {"data": {"kind": "digits"}}
    settings |= SETTINGS[what]
    path.write_text(yaml.safe_dump({key: value for key, value in settings.items() if value is not None}, sort_keys=False))
    said = said_of(lambda _: load_study(path), tmp_path)
    assert re.sub(r"study\.yaml:\d+", "study.yaml:LINE", said) == snapshot


# Networks, layers, weights ---------------------------------------------------------------------------------------------------


def builds(name: str, shape: tuple[int, int, int] = (3, 32, 32), **arguments: object) -> Provoke:
    return lambda _: build_network(name, arguments, shape, 10, seed=0)


def taps(layer: str) -> Provoke:
    def tap(_: Path) -> object:
        with FeatureTap(Odd(), (layer,)) as tapped:
            return tapped(torch.zeros(2, 3, 6, 6))

    return tap


def numbered(number: float) -> dict[str, torch.Tensor]:
    """Weights of the network that `loads` has."""
    state = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1)).state_dict()
    return {name: torch.full_like(tensor, number) for name, tensor in state.items()}


def loads(content: bytes | Mapping[str, torch.Tensor] | None, suffix: str = "safetensors", key: str | None = None) -> Provoke:
    def load(folder: Path) -> None:
        path = folder / f"weights.{suffix}"
        if isinstance(content, bytes):
            path.write_bytes(content)
        elif content is not None:
            save_weights(content, path)
        load_weights(nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1)), path, key)

    return load


def own(code: str, name: str) -> Provoke:
    """A callable of a file in the current folder."""

    def load(folder: Path) -> object:
        module = f"own_{abs(hash((code, name))) % 10**9}"
        (folder / f"{module}.py").write_text(code)
        try:
            return import_callable(f"{module}:{name}")
        except KdHpoError as error:
            raise type(error)(str(error).replace(module, "own")) from None

    return load


NETWORKS: dict[str, Provoke] = {
    "no such network": builds("vgg_8"),
    "no such network of torchvision": builds("torchvision/mobilenet_v3"),
    "depth that a family lacks": builds("cifar_resnet", depth=21),
    "channels that do not go into groups": builds("cifar_shufflenetv1", channels=100),
    "channels of too few stages": builds("cifar_shufflenetv2", channels=[116, 232]),
    "depth of a list": builds("cifar_vgg", depth=16),
    "too deep for its images": builds("plain_conv", channels=[4] * 5),
    "images that are not square": builds("vit_b_16", (3, 32, 64)),
    "side that is no multiple": builds("vit_b_16", (3, 40, 40)),
    "unknown stem": builds("resnet18", stem="tiny"),
    "no strided convolution": lambda _: shrink_stem(nn.Sequential(nn.Conv2d(3, 4, 3))),
    "patches": lambda _: shrink_stem(nn.Sequential(nn.Conv2d(3, 4, 4, 4))),
    "own weights of an own network": lambda _: build_network("resnet20", {}, (3, 32, 32), 10, seed=0, pretrained=True),
    "weights that torchvision lacks": lambda _: build_network("resnet18", {}, (3, 32, 32), 10, seed=0, pretrained="IMAGENET"),
    "no name matches": lambda _: networks_like("plain_konv"),
    "nothing near matches": lambda _: networks_like("%%%"),
    "layer that is not there": taps("hed"),
    "no name of a layer": taps(""),
    "layer of hundreds": lambda _: FeatureTap(nn.Sequential(*(nn.Identity() for _ in range(100))), ("100",)),
    "layer that is never reached": taps("unused"),
    "layer that is called again": taps("relu"),
    "input of a layer that is called again": taps("relu:input"),
    "call that is not made": taps("relu#4"),
    "second call of one": taps("head#2"),
    "layer that returns a tuple": taps("pair"),
    "item that a tuple lacks": taps("pair[2]"),
    "layer that returns a dict": taps("both"),
    "item that a dict lacks": taps("both[list]"),
    "item of a tensor": taps("head[0]"),
    "layer that returns nothing": taps("none"),
    "layer that takes nothing": taps("none:input"),
    "glob of nothing": lambda _: resolve_layers(build_network("plain_conv", {}, (3, 32, 32), 10, seed=0), ("cnv*",), (3, 32, 32)),
    "nothing to propose": lambda _: propose_layers(nn.Sequential(nn.Flatten(), nn.Linear(12, 2)), (3, 2, 2)),
    "weights that are not there": loads(None),
    "weights that do not fit": loads({"0.weight": torch.zeros(4, 2), "extra": torch.zeros(1)}),
    "weights of another type": loads({"0.weight": torch.zeros(3, 2, dtype=torch.int64)}),
    "dict in the place of logits": lambda _: require_output(
        nn.Identity(), {"hidden": torch.zeros(2, 3, 4), "out": torch.zeros(2, 10)}, Classification(10).refuses
    ),
    "output that is not there": lambda _: TakeOutput("logit")(nn.Identity(), (), {"logits": torch.zeros(2, 10)}),
    "output of one tensor": lambda _: build_network("plain_conv", {}, (3, 32, 32), 10, seed=0, output=0),
    "weights in two places": loads({f"{n}.{k}": v for i, n in enumerate(("student", "teacher")) for k, v in numbered(i).items()}),
    "weights under no such key": loads({f"ema.{k}": v for k, v in numbered(1).items()}, key="state_dict_ema"),
    "weights of another number of classes": loads(numbered(1) | {"1.weight": torch.zeros(5, 3), "1.bias": torch.zeros(5)}),
    "weights without a head": loads({k: v for k, v in numbered(1).items() if k.startswith("0.")}),
    "weights that are not finite": loads({k: v / 0 for k, v in numbered(1).items()}),
    "callable without a colon": lambda _: import_callable("package.module"),
    "module that is not there": lambda _: import_callable("nowhere_at_all.good:seven"),
    "callable that is not there": own("def seven(): ...\nclass Eight: ...\n", "six"),
    "name that is no callable": own("NUMBER = 3\n", "NUMBER"),
}


@pytest.mark.parametrize("what", NETWORKS)
def test_a_network_is_refused_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str, snapshot: SnapshotAssertion
) -> None:
    monkeypatch.syspath_prepend("")  # restores sys.path after the test
    monkeypatch.chdir(tmp_path)
    assert said_of(NETWORKS[what], tmp_path) == snapshot


# Core, data and exports ------------------------------------------------------------------------------------------------------


def made(reference: str) -> Provoke:
    return lambda _: pair_loss("callable", reference=reference, options={})


def unserved(_: Path) -> object:
    """Attention between vectors alone."""
    layer = LayerShape("fc", 3, 1, 1)
    pairs = digits_trial(pairs={"loss": {"kind": "attention"}, "logits": "outside"}).pairs
    loss = pair_loss("attention")
    return served_pairs(loss, pair_plan([layer], [layer], meet=loss.meet), pairs)


def export(content: str | None) -> Provoke:
    def load(folder: Path) -> object:
        if content is not None:
            (folder / "export.json").write_text(content)
        return load_export(folder / "export.json")

    return load


def pets(*files: str) -> Provoke:
    def load(folder: Path) -> object:
        for file in files:
            (folder / "pets" / file).parent.mkdir(parents=True, exist_ok=True)
            (folder / "pets" / file).touch()
        return load_image_folder(folder / "cache", folder / "pets", size=None)

    return load


def splits(test_start: int | None = None, **changes: int | float | None) -> Provoke:
    sizes: dict[str, Any] = {"train": 800, "outer": 100, "val": 100, "test": 150, "seed": 0} | changes
    return lambda _: make_splits(np.arange(1200) % 4, test_start, **sizes)


def unlabelled(*files: str) -> Provoke:
    data = ImageSet("data", np.zeros((2, 1, 8, 8), np.uint8), np.zeros(2, np.int64), ("a", "b"), None, "d")

    def load(folder: Path) -> object:
        for file in files:
            (folder / "images").mkdir(exist_ok=True)
            colour = np.arange(300, dtype=np.uint8).reshape(10, 10, 3)[: int(file[1]), : int(file[1])]
            Image.fromarray(colour if file.startswith("c") else colour[..., 0]).save(folder / "images" / file)
        return load_unlabelled_folder(folder / "cache", folder / "images", data, size=None, most=9, seed=0)

    return load


def no_image_left(folder: Path) -> object:
    config = digits_trial(data={"kind": "digits", "unlabelled": "extra"}, splits={"outer": 120, "val": 120, "test": 200})
    return prepare(config, folder / "cache")


PARTS: dict[str, Provoke] = {
    "weights of other classes": lambda _: Classification(3, class_weights=(1.0, 2.0)),
    "mean of other channels": lambda _: of_unit_pixels("given", (0.5, 0.5), 0.5, 3),
    "callable that makes no loss": made("builtins:dict"),
    "layer of too many sides": lambda _: layer_shape("odd", torch.zeros(2, 3, 4, 5, 6), (32, 32)),
    "direction that diverges": lambda _: Implicit(lambda hessian, g: (g, float("nan")))({}, None),  # type: ignore[arg-type]
    "loss that serves no pair": unserved,
    "classes over a batch of one": lambda _: logit_loss("dist")(*(torch.zeros(1, 3),) * 2, torch.zeros(1).long()),
    "no export": export(None),
    "empty export": export(""),
    "export of another shape": export("{}"),
    "folder that is not there": pets(),
    "folder without classes": pets("a.png"),
    "folder without images": pets("cat/a.txt"),
    "folder of files that are no images": pets("cat/a.png", "dog/b.png"),
    "unlabelled folder that is not there": unlabelled(),
    "unlabelled image of another size": unlabelled("g9.png"),
    "unlabelled image in colours": unlabelled("c8.png"),
    "unlabelled images of which none is left": no_image_left,
    "array of channels at either end": lambda _: raw_image(np.zeros((3, 9, 1), np.uint8), "item 0 of own:data"),
    "label that is a name": lambda _: Items("own:data", [[(np.eye(3), "cat")]], None, None).read(0),
    "no test half": splits(test=None),
    "split of nothing": splits(outer=0),
    "split of a share above 1": splits(val=2.5),
    "splits of more images than there are": splits(train=900),
    "splits of more than the pool": splits(1000, train=700, val=300),
    "test of more than its half": splits(1000, train=500, test=201),
}


@pytest.mark.parametrize("what", PARTS)
def test_a_part_is_refused_with(tmp_path: Path, what: str, snapshot: SnapshotAssertion) -> None:
    assert said_of(PARTS[what], tmp_path) == snapshot


# Trials ----------------------------------------------------------------------------------------------------------------------

TRIALS: dict[str, dict[str, object]] = {
    "batch larger than the split": {"training": {"epochs": 1, "batch_size": 512}},
    "pair of a layer that is not there": {"weighting": {"kind": "one_pair", "teacher": "conv9", "student": "fc"}},
    "exits without the logits": {"weighting": {"kind": "exits"}},
    "memory of images that an outer loss has not": {
        "pairs": {"loss": {"kind": "crd"}},
        "weighting": {"kind": "learned", "outer_objective": "task_and_pairs"},
    },
    "matrix of another shape": {"weighting": {"kind": "fixed", "matrix": [[1, 0], [0, 0]]}},
    "matrix of zeros": {"weighting": {"kind": "fixed", "matrix": [[0, 0]] * 3}},
    "replay from a start of another shape": {"weighting": {"kind": "replay", "matrices": [[[1, 0]] * 3], "start": [[1, 0]]}},
    "optimizer that torch does not have": {"training": {"epochs": 1, "optimizer": {"kind": "torch", "name": "RMSProp"}}},
    "schedule that torch does not have": {"training": {"epochs": 1, "lr_schedule": {"kind": "torch", "name": "StepLr"}}},
    "direction back through steps that it does not know": {
        "training": {"epochs": 1, "batch_size": 32, "optimizer": {"kind": "torch", "name": "Rprop"}},
        "weighting": {"kind": "learned", "direction": {"kind": "unrolled"}, "warmup": 0.0, "every": 1},
    },
    "transform that torchvision does not have": {"augment": ({"name": "RandAugmnt"},)},
    "transform to another size": {"augment": ({"name": "RandomCrop", "arguments": {"size": 4}},)},
    "transform that gives numbers": {"augment": ({"name": "ConvertImageDtype"},)},
    "replay of another shape": {"weighting": {"kind": "replay", "matrices": [[[1, 2, 3]] * 3]}},
}


@pytest.mark.parametrize("what", TRIALS)
def test_a_trial_is_refused_with(tmp_path: Path, cache: Path, prepared: Prepared, what: str, snapshot: SnapshotAssertion) -> None:
    run = partial(run_trial, digits_trial(**TRIALS[what]), lambda _: None, cache=cache, prepared=prepared)
    assert said_of(lambda _: run(), tmp_path) == snapshot


def test_a_checkpoint_is_refused_with(tmp_path: Path, cache: Path, prepared: Prepared, snapshot: SnapshotAssertion) -> None:
    short = digits_trial(training={"epochs": 1, "batch_size": 64})
    run_trial(short, lambda _: None, cache=cache, folder=tmp_path, prepared=prepared)
    of_another = said_of(
        lambda folder: run_trial(digits_trial(), lambda _: None, cache=cache, folder=folder, prepared=prepared), tmp_path
    )
    (tmp_path / CHECKPOINT).write_bytes(b"")
    broken = said_of(lambda folder: run_trial(short, lambda _: None, cache=cache, folder=folder, prepared=prepared), tmp_path)
    assert {"of another configuration": of_another, "broken": broken} == snapshot


def test_cached_features_of_random_views_are_refused_with(tmp_path: Path, cache: Path, snapshot: SnapshotAssertion) -> None:
    cached = with_settings(digits_trial(augment=("flip",)), {"teacher.features": "cached"})
    assert said_of(lambda _: prepare(cached, cache), tmp_path) == snapshot


def test_a_teacher_whose_input_no_library_knows_is_refused_with(tmp_path: Path, cache: Path, snapshot: SnapshotAssertion) -> None:
    config = with_settings(digits_trial(), {"teacher.input": "weights"})
    assert said_of(lambda _: prepare(config, cache), tmp_path) == snapshot


def test_a_given_teacher_that_is_no_better_than_its_student_is_refused_with(
    tmp_path: Path, prepared: Prepared, monkeypatch: pytest.MonkeyPatch, snapshot: SnapshotAssertion
) -> None:
    monkeypatch.setattr("kd_hpo.trial.student_alone.score_alone", lambda *_: Alone(0.875))
    teacher = replace(prepared.teacher, val=replace(prepared.teacher.val, value=0.75))
    weak = replace(prepared, teacher=replace(teacher, reads=of_unit_pixels("none", 0.0, 1.0, 1)))
    assert said_of(lambda _: require_better_than_student(digits_trial(), weak, lambda _: None), tmp_path) == snapshot


def test_a_device_that_is_not_there_is_refused_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, snapshot: SnapshotAssertion
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert said_of(lambda _: choose_device("cuda"), tmp_path) == snapshot

"""The readers of files that others may have written: whatever stands in them, an error of ours comes out or what was read.

Each test runs a small, fixed set of examples. `FUZZ=10000 pytest tests/security/test_fuzz.py` looks at so many new ones each.
"""

import copy
import json
import os
from collections.abc import Callable, Iterator
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import nn

from kd_hpo.data.arrays import read_array
from kd_hpo.data.cache import Labelling, new_images, open_or_build
from kd_hpo.data.image_folder import load_image_folder
from kd_hpo.errors import ConfigError, KdHpoError
from kd_hpo.nets.weights import load_weights, save_weights, weights_digest
from kd_hpo.study.design.study_file import load_study
from kd_hpo.study.matrices.forms import applied_config
from kd_hpo.study.search.journal import known_trials
from kd_hpo.study.store.export_file import load_export
from kd_hpo.study.store.folder import StudyFolder
from kd_hpo.trial.checkpoint import load_checkpoint
from kd_hpo.trial.loop import CHECKPOINT, resume, run_epoch
from kd_hpo.trial.parts import Prepared
from kd_hpo.trial.start import start_trial
from kd_hpo.trial.state import Trial
from tests.conftest import digits_trial

LONG = int(os.environ.get("FUZZ", "0"))


def examples(number: int) -> settings:
    return settings(
        max_examples=LONG or number,
        derandomize=not LONG,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )


def ours(read: Callable[[], Any]) -> Any:
    """What was read; None where an error of ours came out, each line of it printable."""
    try:
        return read()
    except KdHpoError as error:
        lines = str(error).split("\n")
        assert len(lines) == 1 or isinstance(error, ConfigError)
        assert all(line and line.isprintable() for line in lines), lines
        return None


# ---- values, and places for them

ODD: list[Any] = [
    None,
    True,
    False,
    0,
    -1,
    1,
    2**31,
    2**63,
    -(2**63) - 1,
    10**400,
    0.0,
    -0.0,
    1e-320,
    1e308,
    -1e308,
    float("nan"),
    float("inf"),
    -float("inf"),
    "",
    "x",
    "NaN",
    "1e999",
    "\0",
    "\n",
    "\x1b[2J",
    "\u202e",
    "é" * 50,
    "../..",
    "~nobody/x",
    "a:b",
    "hf-hub:x/y",
    "${HOME}",
    "auto",
    "*" * 60 + "a",
    [],
    {},
    [[]],
    [None],
    {"": None},
    {"kind": "x"},
    {"kind": ["none"]},
    {"kind": None},
    {"a": {"b": [1, {"c": float("nan")}]}},
    [[0.5], [0.5, 0.5]],
    "x" * 10_000,
    list(range(2000)),
]
ATOMS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
TREES = st.recursive(
    ATOMS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3), max_leaves=8
)
VALUES = st.sampled_from(ODD) | TREES


def places(node: Any, above: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of everything that stands in plain data."""
    for key, value in node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ():
        yield (*above, key)
        yield from places(value, (*above, key))


CHANGES = st.lists(
    st.tuples(st.floats(0, 1, exclude_max=True), st.sampled_from(["put", "delete", "rename", "double"]), VALUES),
    min_size=1,
    max_size=3,
)


def changed(content: Any, changes: list[tuple[float, str, Any]]) -> Any:
    """A copy with values at places replaced, taken out, put under another key, or doubled."""
    content = copy.deepcopy(content)
    for at, how, value in changes:
        all_places = list(places(content))
        if not all_places:
            break
        *above, last = all_places[int(at * len(all_places))]
        node = content
        for key in above:
            node = node[key]
        if how == "delete":
            del node[last]
        elif how == "rename" and isinstance(node, dict):
            node[str(value)] = node.pop(last)
        elif how == "double" and isinstance(node, list):
            node.insert(last, copy.deepcopy(node[last]))
        else:
            node[last] = copy.deepcopy(value)  # a later change may reach into it, and the next example has it again
    return content


damage = given(at=st.floats(0, 1), cut=st.integers(0, 60), put=st.binary(max_size=8))


def damaged(content: bytes, at: float, cut: int, put: bytes) -> bytes:
    start = int(at * len(content))
    return content[:start] + put + content[start + cut :]


def flipped(content: bytes, at: float, bit: int) -> bytes:
    changed, place = bytearray(content), min(int(at * len(content)), len(content) - 1)
    changed[place] ^= 1 << bit
    return bytes(changed)


# ---- study files

STUDIES = sorted(Path("studies").absolute().glob("*.yaml"))
PARSED = {path: yaml.safe_load(path.read_text()) for path in STUDIES}
FAST = ["search.trials=0", "compare.tune=0"]
"""Without a search, whose ranges take a trial of every value."""


@pytest.fixture(scope="module")
def there(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz")


@examples(60)
@given(content=st.binary(max_size=400))
def test_any_bytes_as_a_study(there: Path, content: bytes) -> None:
    (there / "study.yaml").write_bytes(content)
    ours(lambda: load_study(there / "study.yaml"))


WORDS = """- : ? [ ] { } , # & * ! | > ' " % @ ` ~ << --- ... &a *a !!str !!int !!map !t \\ 1 0x 1e5 .inf null a: é \u2028"""
SYNTAX = st.lists(st.sampled_from([*WORDS.split(" "), "\n", "\t", "\n  ", "  ", "\n- ", ": ", "a: ", "name: "]), max_size=30).map(
    "".join
)


@examples(150)
@given(text=SYNTAX)
def test_any_syntax_as_a_study(there: Path, text: str) -> None:
    (there / "study.yaml").write_text(text, errors="replace")
    ours(lambda: load_study(there / "study.yaml"))


@examples(40)
@given(content=st.dictionaries(st.sampled_from(sorted(PARSED[STUDIES[0]])) | st.text(max_size=6), VALUES, max_size=6))
def test_any_structure_as_a_study(there: Path, content: dict[str, Any]) -> None:
    (there / "study.yaml").write_text(as_yaml(content), errors="replace")
    ours(lambda: load_study(there / "study.yaml"))


@examples(40)
@given(path=st.sampled_from(STUDIES), changes=CHANGES)
def test_any_change_of_a_study(there: Path, path: Path, changes: list[tuple[float, str, Any]]) -> None:
    """One that is read can be kept, and comes back as it was."""
    (there / "study.yaml").write_text(as_yaml(changed(PARSED[path], changes)), errors="replace")
    study = ours(lambda: load_study(there / "study.yaml", FAST))
    if study is not None:
        folder = StudyFolder(there / study.name)
        folder.write_settings(study)
        assert folder.read_settings() == study.replace(runs=there)
        assert type(study).model_validate_json(study.model_dump_json()) == study


@examples(40)
@damage
def test_any_damage_of_a_study(there: Path, at: float, cut: int, put: bytes) -> None:
    for path in STUDIES:
        (there / "study.yaml").write_bytes(damaged(path.read_bytes(), at, cut, put))
        ours(lambda: load_study(there / "study.yaml", FAST))


@examples(40)
@given(
    path=st.sampled_from(["seed", "name", "data", "teacher.layers", "student.network.arguments.x", "compare", "a.b", ""]),
    value=SYNTAX,
)
def test_any_override(path: str, value: str) -> None:
    ours(lambda: load_study(STUDIES[0], [*FAST, f"{path}={value}"]))


def as_yaml(content: Any) -> str:
    """Floats as YAML 1.2 writes them; JSON for what PyYAML's writer chokes on."""
    try:
        return yaml.safe_dump(content, allow_unicode=True)
    except (yaml.YAMLError, ValueError):
        return json.dumps(content)


LAUGHS = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12)
)


@pytest.mark.parametrize(
    "text",
    [
        LAUGHS,
        LAUGHS.replace("[", "{q: [").replace("]", "]}"),
        "a: &a {b: *a}",
        "[" * 100_000,
        "{a: " * 50_000,
        "- " * 100_000,
        "a:\n" + "".join(f"{' ' * i}a:\n" for i in range(1, 700)),
        "&a " * 50_000,
        "? " * 50_000,
        "x" * 2**20 + ": 1",
        "a: |\n" + " x\n" * 100_000,
        "name: a\n" * 3,
        "seed: " + "1" * 100_000,
        "seed: " + "1_" * 100_000,
        "seed: 1" + "e1" * 100_000,
    ],
    ids=lambda text: text[:12].encode("unicode_escape").decode(),
)
def test_a_study_that_expands_nests_or_repeats_without_end(there: Path, text: str) -> None:
    (there / "study.yaml").write_text(text)
    assert ours(lambda: load_study(there / "study.yaml")) is None


# ---- exports


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    from tests.security.conftest import learned_study, written_export

    return json.loads(written_export(learned_study(tmp_path_factory.mktemp("export"))).read_text())


def applied(path: Path) -> None:
    """An export that is read can be applied, up to what it names."""
    read = ours(lambda: load_export(path))
    for entry in read.matrices if read else ():
        ours(lambda entry=entry: applied_config(entry, ()))


def test_every_leaf_of_an_export_as_everything_else(there: Path, whole: dict[str, Any]) -> None:
    all_places = list(places(whole))
    for number, place in enumerate(all_places):
        values = ODD if LONG else [ODD[number % len(ODD)], ODD[(7 * number + 3) % len(ODD)]]
        for value in values:
            content = copy.deepcopy(whole)
            node = content
            for key in place[:-1]:
                node = node[key]
            node[place[-1]] = value
            (there / "export.json").write_text(json.dumps(content))
            applied(there / "export.json")


@examples(60)
@given(changes=CHANGES)
def test_any_change_of_an_export(there: Path, whole: dict[str, Any], changes: list[tuple[float, str, Any]]) -> None:
    (there / "export.json").write_text(json.dumps(changed(whole, changes)))
    applied(there / "export.json")


@examples(60)
@damage
def test_any_damage_of_an_export(there: Path, whole: dict[str, Any], at: float, cut: int, put: bytes) -> None:
    (there / "export.json").write_bytes(damaged(json.dumps(whole).encode(), at, cut, put))
    applied(there / "export.json")


@pytest.mark.parametrize(
    "value",
    [
        "NaN",
        "-Infinity",
        "1e999",
        "9" * 5000,
        '"\\ud800"',
        "[" * 100_000,
        '{"a":' * 100_000,
        "{" + '"a":1,' * 1000 + '"a":1}',
        '"\x00"',
    ],
    ids=lambda value: value[:10].encode("unicode_escape").decode(),
)
def test_json_that_is_at_the_edge(there: Path, whole: dict[str, Any], value: str) -> None:
    for name in ("seed", "pair_loss", "outer_settings", "metrics", "trial"):
        text = json.dumps(whole | {"matrices": [whole["matrices"][0] | {name: "HERE"}]}).replace('"HERE"', value)
        (there / "export.json").write_text(text)
        applied(there / "export.json")
    assert ours(lambda: load_export(Path("a\0b"))) is None
    assert ours(lambda: load_export(Path("/dev/zero"))) is None


# ---- checkpoints


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory, prepared: Prepared) -> bytes:
    """Of digits_trial after two epochs."""
    folder = tmp_path_factory.mktemp("checkpoint")
    trial = begun(prepared)
    with trial.student:
        run_epoch(trial, folder, lambda _: None)
        run_epoch(trial, folder, lambda _: None)
    return (folder / CHECKPOINT).read_bytes()


def begun(prepared: Prepared) -> Trial:
    return start_trial(digits_trial(), prepared)


def resumed(folder: Path, prepared: Prepared) -> Trial | None:
    trial = begun(prepared)
    trial.student.close()
    ours(lambda: resume(trial, folder))
    return trial


@examples(40)
@damage
def test_any_damage_of_a_checkpoint_is_seen(there: Path, checkpoint: bytes, at: float, cut: int, put: bytes) -> None:
    content = damaged(checkpoint, at, cut, put)
    (there / "checkpoint.pt").write_bytes(content)
    read = ours(lambda: load_checkpoint(there / "checkpoint.pt", digits_trial()))
    assert (read is None) == (content != checkpoint)


@examples(40)
@given(at=st.floats(0, 1), bit=st.integers(0, 7))
def test_every_flipped_bit_of_a_checkpoint_is_seen(there: Path, checkpoint: bytes, at: float, bit: int) -> None:
    (there / "checkpoint.pt").write_bytes(flipped(checkpoint, at, bit))
    assert ours(lambda: load_checkpoint(there / "checkpoint.pt", digits_trial())) is None
    signed = flipped(checkpoint[32:], at, bit)
    (there / "checkpoint.pt").write_bytes(sha256(signed).digest() + signed)
    ours(lambda: load_checkpoint(there / "checkpoint.pt", digits_trial()))


TENSORS = st.sampled_from(
    [
        torch.zeros(()),
        torch.zeros(0),
        torch.zeros(3, 2),
        torch.zeros(2, 3),
        torch.zeros(7, 7, dtype=torch.float64),
        torch.zeros(3, 2, dtype=torch.int64),
        torch.zeros(3, 2, dtype=torch.complex64),
        torch.full((3, 2), float("nan")),
        torch.zeros(3, 2).to_sparse(),
        torch.zeros(5056, dtype=torch.uint8),
    ]
)


@examples(25)
@given(at=st.floats(0, 1, exclude_max=True), delete=st.booleans(), value=st.sampled_from(ODD[:44]) | TENSORS)
def test_any_change_of_a_checkpoints_state(
    there: Path, checkpoint: bytes, prepared: Prepared, at: float, delete: bool, value: Any
) -> None:
    """Signed, as only somebody who means it could: the trial takes it, or says that it does not fit."""
    saved = torch.load(BytesIO(checkpoint[32:]), weights_only=True)
    all_places = list(tensor_places(saved))
    *above, last = all_places[int(at * len(all_places))]
    node = saved
    for key in above:
        node = node[key]
    while isinstance(node, tuple):  # which nothing can be put into: all of it is changed
        *above, last = above
        node = saved
        for key in above:
            node = node[key]
    if delete and isinstance(node, dict):
        del node[last]
    else:
        node[last] = value
    buffer = BytesIO()
    torch.save(saved, buffer)
    (there / CHECKPOINT).write_bytes(sha256(buffer.getvalue()).digest() + buffer.getvalue())
    resumed(there, prepared)


def tensor_places(node: Any, above: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    for key, value in node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list | tuple) else ():
        yield (*above, key)
        yield from tensor_places(value, (*above, key))


# ---- what a study's folder holds


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> StudyFolder:
    from tests.security.conftest import learned_study

    return learned_study(tmp_path_factory.mktemp("study"))


@examples(25)
@given(
    name=st.sampled_from(["status.json", "records.json", "result.json"]),
    changes=CHANGES,
    at=st.floats(0, 1),
    put=st.binary(max_size=8),
)
def test_any_change_of_a_trials_records(
    study: StudyFolder, name: str, changes: list[tuple[float, str, Any]], at: float, put: bytes
) -> None:
    path = study.trial("hetero-t000") / name
    before = path.read_bytes()
    try:
        for content in (json.dumps(changed(json.loads(before), changes)).encode(), damaged(before, at, 3, put)):
            path.write_bytes(content)
            for read in (study.statuses, lambda: study.records("hetero-t000"), lambda: study.result("hetero-t000")):
                ours(read)
    finally:
        path.write_bytes(before)


@examples(25)
@damage
def test_any_damage_of_a_journal(study: StudyFolder, journal: bytes, at: float, cut: int, put: bytes) -> None:
    study.optuna.write_bytes(damaged(journal, at, cut, put))
    ours(lambda: known_trials(study, "hetero"))


@pytest.fixture(scope="module")
def journal(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    import optuna

    from kd_hpo.study.search.journal import journal as journal_in

    path = tmp_path_factory.mktemp("journal") / "optuna.log"
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    found = optuna.create_study(storage=journal_in(path), study_name="hetero", direction="maximize")
    for _ in range(2):
        trial = found.ask()
        trial.suggest_float("kd.weight", 0.5, 2.0)
        trial.report(0.5, 1)
        found.tell(trial, 0.5)
    return path.read_bytes()


# ---- weights, caches, images


def small() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, 3))


@examples(60)
@given(suffix=st.sampled_from(["pt", "safetensors"]), at=st.floats(0, 1), cut=st.integers(0, 60), put=st.binary(max_size=8))
def test_any_damage_of_weights(there: Path, suffix: str, at: float, cut: int, put: bytes) -> None:
    path = there / f"weights.{suffix}"
    if suffix == "pt":
        torch.save(small().state_dict(), path)
    else:
        save_weights(small().state_dict(), path)
    path.write_bytes(damaged(path.read_bytes(), at, cut, put))
    ours(lambda: load_weights(small(), path))


@examples(60)
@given(
    name=st.sampled_from(list(small().state_dict())) | st.integers() | st.text(max_size=5),
    value=TENSORS | ATOMS,
    under=st.text(max_size=3),
)
def test_any_content_of_weights(there: Path, name: Any, value: Any, under: str) -> None:
    """What is refused leaves the network as it was."""
    state: dict[Any, Any] = dict(small().state_dict()) | {name: value}
    for content in (state, {"state_dict": state, under: value}, [value], value):
        torch.save(content, there / "any.pt")
        network = small()
        before = weights_digest(network)
        try:
            load_weights(network, there / "any.pt")
        except KdHpoError as error:
            assert str(error).isprintable()
            assert weights_digest(network) == before


def test_weights_that_hold_themselves(there: Path) -> None:
    content: dict[str, Any] = {}
    content["model"] = content
    torch.save(content, there / "loop.pt")
    assert ours(lambda: load_weights(small(), there / "loop.pt")) is None


@examples(60)
@given(at=st.floats(0, 1), cut=st.integers(0, 60), put=st.binary(max_size=8))
def test_any_damage_of_an_array(there: Path, at: float, cut: int, put: bytes) -> None:
    np.save(there / "array.npy", np.zeros((4, 3), np.float32))
    (there / "array.npy").write_bytes(damaged((there / "array.npy").read_bytes(), at, cut, put))
    for mapped in (True, False):
        read = ours(lambda mapped=mapped: read_array(there / "array.npy", np.float32, (None, 3), mapped=mapped))
        assert read is None or (read.shape[1], read.dtype) == (3, np.float32)


@examples(30)
@given(
    changes=CHANGES,
    name=st.sampled_from(["meta.json", "images.npy", "labels.npy"]),
    at=st.floats(0, 1),
    put=st.binary(max_size=8),
)
def test_any_change_of_the_image_cache_is_built_again(
    there: Path, changes: list[tuple[float, str, Any]], name: str, at: float, put: bytes
) -> None:
    def build(folder: Path) -> Labelling:
        new_images(folder, (2, 1, 2, 2))[:] = 7
        return Labelling(np.arange(2), ("a", "b"), 1)

    open_or_build(there, "set", "kind", "key", build)
    path = there / "kind-key" / name  # whole, or built again after what the example before left
    before = path.read_bytes()
    content = json.dumps(changed(json.loads(before), changes)).encode() if name == "meta.json" else damaged(before, at, 3, put)
    path.write_bytes(content)
    found = ours(lambda: open_or_build(there, "set", "kind", "key", build))
    assert found.images.shape == (2, 1, 2, 2) and set(found.labels.tolist()) <= {0, 1}
    path.write_bytes(before)


def picture(kind: str) -> bytes:
    buffer = BytesIO()
    Image.effect_noise((24, 16), 60).convert("RGB").save(buffer, kind)
    return buffer.getvalue()


PICTURES = {kind: picture(kind) for kind in ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM")}


@examples(25)
@given(kind=st.sampled_from(sorted(PICTURES)), at=st.floats(0, 1), cut=st.integers(0, 60), put=st.binary(max_size=8))
def test_any_damage_of_an_image(there: Path, kind: str, at: float, cut: int, put: bytes) -> None:
    root = there / "images"
    for name in "ab":
        (root / name).mkdir(parents=True, exist_ok=True)
        (root / name / "whole.png").write_bytes(PICTURES["PNG"])
    (root / "a" / "damaged.png").write_bytes(damaged(PICTURES[kind], at, cut, put))
    ours(lambda: load_image_folder(there / "image-cache", root, 8))


def test_an_image_that_claims_to_be_huge(tmp_path: Path) -> None:
    """65,000 x 65,000 pixels in a few bytes."""
    for name in "ab":
        (tmp_path / "images" / name).mkdir(parents=True)
        (tmp_path / "images" / name / "whole.png").write_bytes(PICTURES["PNG"])
    for side, words in ((9000, "more than"), (65_000, "DecompressionBombError")):
        bomb = bytearray(PICTURES["BMP"])
        bomb[18:26] = side.to_bytes(4, "little") * 2
        (tmp_path / "images" / "a" / "bomb.bmp").write_bytes(bomb)
        with pytest.raises(KdHpoError, match=rf"1 of 3 .*a/bomb\.bmp \(.*{words}"):
            load_image_folder(tmp_path / "cache", tmp_path / "images")


def test_a_folder_that_holds_itself(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / "images" / name).mkdir(parents=True)
        (tmp_path / "images" / name / "whole.png").write_bytes(PICTURES["PNG"])
    (tmp_path / "images" / "a" / "again").symlink_to(tmp_path / "images" / "a")
    assert len(load_image_folder(tmp_path / "cache", tmp_path / "images").images) == 2


def test_an_array_whose_header_is_no_python(there: Path) -> None:
    """numpy reads it with Python's tokenizer, which raises what nothing else does."""
    np.save(there / "header.npy", np.zeros((4, 3), np.float32))
    content = (there / "header.npy").read_bytes()
    for put in (b"\xae", b"(", b"'''", b"\\", b"\0"):
        (there / "header.npy").write_bytes(content[:100] + put + content[100 + len(put) :])
        ours(lambda: read_array(there / "header.npy", np.float32, (None, 3)))

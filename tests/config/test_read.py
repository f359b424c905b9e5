import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
import yaml
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from kd_hpo.config.explain import Mistake
from kd_hpo.config.read import apply_overrides, parse_overrides, read_settings, replace_path, replace_paths, validated
from kd_hpo.config.settings import Settings
from kd_hpo.errors import ConfigError


class Sgd(Settings):
    kind: Literal["sgd"] = "sgd"
    lr: PositiveFloat = 0.1
    momentum: float = 0.9


class Adam(Settings):
    kind: Literal["adam"] = "adam"
    lr: PositiveFloat = 0.001
    betas: tuple[float, float] = (0.9, 0.999)


Optimizer = Annotated[Sgd | Adam, Field(discriminator="kind")]


class Layer(Settings):
    width: PositiveInt = 8
    optimizer: Optimizer = Sgd()


class Ordered(Settings):
    low: float = 0.0
    high: float = 1.0

    @model_validator(mode="after")
    def _ordered(self) -> "Ordered":
        if self.low >= self.high:
            raise ValueError(f"low {self.low} must be\n below high {self.high}")
        return self


class Study(Settings):
    name: str = "study"
    seed: int = 0
    optimizer: Optimizer = Sgd()
    maybe: Optimizer | None = None
    layers: list[Layer] = Field(default_factory=list)
    by_name: dict[str, Optimizer] = Field(default_factory=dict)
    mixed: dict[str, list[Optimizer] | float] = Field(default_factory=dict)
    either: str | Layer = "none"
    bounds: Ordered = Ordered()
    matrix: tuple[tuple[float, ...], ...] = ((1.0, 2.0), (3.0, 4.0))
    widths: dict[int, int] = Field(default_factory=dict)
    tables: dict[int, dict[str, int]] = Field(default_factory=dict)
    mode: Literal["slow", "fast"] = "slow"
    anything: dict[str, Any] = Field(default_factory=dict)


class Strict(Settings):
    name: str
    layer: Layer
    optimizer: Optimizer
    matrix: tuple[tuple[PositiveFloat, ...], ...]
    rate: PositiveFloat | Optimizer


def read(tmp_path: Path, text: str | bytes, *overrides: str, model: type[Any] = Study) -> Any:
    file = tmp_path / "study.yaml"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_settings(model, file, overrides)


def complaint(tmp_path: Path, text: str | bytes, *overrides: str, model: type[Any] = Study) -> str:
    """What read_settings says of a file, without the folder."""
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, text, *overrides, model=model)
    return str(caught.value).replace(f"{tmp_path}/", "")


# ---- what is accepted


def test_reads_nested_settings(tmp_path: Path) -> None:
    text = "name: a\noptimizer: {kind: adam, lr: 1e-3, betas: [.5, 1.]}\nlayers:\n- width: 3\n- optimizer: {kind: sgd}\n"
    expected = Study(name="a", optimizer=Adam(betas=(0.5, 1.0)), layers=[Layer(width=3), Layer()])
    assert read(tmp_path, text) == expected


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001),
        ("-1E+3", -1000.0),
        ("2.5e3", 2500.0),
        (".5", 0.5),
        ("3.", 3.0),
        (".inf", float("inf")),
        ("-.inf", -float("inf")),
        ("12", 12),
        ("-1_000", -1000),
        ("true", True),
        ("~", None),
        ("", None),
        ("'1e-3'", "1e-3"),
        ("yes", "yes"),
        ("off", "off"),
        ("012", "012"),
        ("12:30", "12:30"),
        ("2024-01-31", "2024-01-31"),
        ("1.2.3", "1.2.3"),
        ("e5", "e5"),
    ],
)
def test_unquoted_values(tmp_path: Path, text: str, value: object) -> None:
    given = read(tmp_path, f"anything: {{x: {text}}}").anything["x"]
    assert given == value
    assert type(given) is type(value)


def test_the_loader_of_others_stays_as_it_is() -> None:
    assert yaml.safe_load("1e-3") == "1e-3"
    assert yaml.safe_load("yes") is True


def test_anchors_and_merges(tmp_path: Path) -> None:
    text = "by_name:\n  a: &a {kind: sgd, lr: 1}\n  b: *a\n  c: {lr: 2, <<: *a}\n  d: {<<: [{kind: adam, betas: [1, 2]}, *a]}\n"
    expected = {"a": Sgd(lr=1), "b": Sgd(lr=1), "c": Sgd(lr=2), "d": Adam(lr=1, betas=(1, 2))}
    assert read(tmp_path, text).by_name == expected


def test_a_byte_order_mark_is_skipped(tmp_path: Path) -> None:
    assert read(tmp_path, b"\xef\xbb\xbfname: a").name == "a"


def test_overrides_are_made_in_order(tmp_path: Path) -> None:
    overrides = [
        "seed=1",
        "optimizer={kind: adam, lr: 1e-3}",
        "optimizer.lr=2e-3",
        "matrix.1.0=9",
        "seed=2",
        "by_name.new.kind=adam",
    ]
    given = read(tmp_path, "optimizer: {momentum: 0.5, kind: sgd}\nmatrix: [[1, 2], [3, 4]]", *overrides)
    assert given == Study(seed=2, optimizer=Adam(lr=0.002), matrix=((1, 2), (9, 4)), by_name={"new": Adam()})


def test_an_override_reaches_a_key_with_dots(tmp_path: Path) -> None:
    given = read(tmp_path, "by_name: {a.b: {kind: sgd}, a: {kind: adam}}", "by_name.a.b.lr=3", "by_name.a.lr=4")
    assert given.by_name == {"a.b": Sgd(lr=3), "a": Adam(lr=4)}


# ---- files that cannot be read


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "study.yaml is empty; write `key: value` lines with the keys name, layer, optimizer, matrix, rate"),
        ("# x\n", "study.yaml is empty; write `key: value` lines with the keys name, layer, optimizer, matrix, rate"),
        (
            "- 1",
            "study.yaml holds [1], not a mapping; write `key: value` lines with the keys name, layer, optimizer, matrix, rate",
        ),
        (
            "hi",
            "study.yaml holds 'hi', not a mapping; write `key: value` lines with the keys name, layer, optimizer, matrix, rate",
        ),
        (b"a: 1\nb: \xff", "study.yaml:2: the byte 0xff is not UTF-8; save the file as UTF-8"),
        (b"a: " + b"x" * 2**20, "study.yaml has more than 1048576 bytes, the most that a file may have; shorten it"),
    ],
)
def test_files_of_another_shape(tmp_path: Path, text: str | bytes, message: str) -> None:
    assert complaint(tmp_path, text, model=Strict) == message


def test_a_file_of_one_mebibyte_is_read(tmp_path: Path) -> None:
    assert len(read(tmp_path, "name: ".ljust(2**20, "x")).name) == 2**20 - 6


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("none.yaml", "No such file or directory"),
        (".", "Is a directory"),
        ("file/x.yaml", "Not a directory"),
        ("a\0b", "embedded null byte"),
    ],
)
def test_paths_without_a_file(tmp_path: Path, path: str, reason: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError) as caught:
        read_settings(Study, tmp_path / path)
    shown = str(tmp_path / path).replace("\0", "\\x00")
    assert str(caught.value) == f"{shown} cannot be read ({reason}); give the path of a YAML file"


@pytest.mark.parametrize(
    ("text", "line", "problem", "given"),
    [
        ("a: 1\nb: c: d", 2, "mapping values are not allowed here", "b: c: d"),
        ("a: 1\nb: {x: 1,\n  y: [}", 3, "expected the node content, but found '}'", "y: [}"),
        ("a: 1\nb: *c", 2, "found undefined alias 'c'", "b: *c"),
        ("a: 1\n--- \nb: 1", 2, "expected a single document in the stream, but found another document", "---"),
        ("a: 1\nb: \x07", 2, "the character '\\x07' is not accepted", "b: \\x07"),
        ("a: 1\nb: 2\na: 3", 3, "the key 'a' is already on line 1", "a: 3"),
        ("x:\n  a: 1\n  'a': 3", 3, "the key 'a' is already on line 2", "'a': 3"),
        ("x: {1: 2,\n 1.0: 3}", 2, "the key 1.0 is already on line 1", "1.0: 3}"),
        ("x: &x {a: 1}\ny: {<<: *x, <<: *x}", 2, "the key '<<' is already on line 2", "y: {<<: *x, <<: *x}"),
        ("a: 1\n? [b]\n: 1", 2, "a plain value is due here, not a list or mapping", "? [b]"),
        ("a: 1\n<<: 3", 2, "`<<` takes a mapping or a list of mappings", "<<: 3"),
        ("a: !!python/name:os.system", 1, "the tag python/name:os.system is not accepted, only values without one are", None),
        ("a: 1\nb: !!set {c}", 2, "the tag set is not accepted, only values without one are", "b: !!set {c}"),
        ("a: 1\nb: !!int c", 2, "this is not a valid int", "b: !!int c"),
        ("a: 1\nb: !!bool c", 2, "this is not a valid bool", "b: !!bool c"),
        ("a: 1\nb: !!map c", 2, "a plain value is due here, not a list or mapping", "b: !!map c"),
        ('a: 1\nb: "\\ud800"', 2, "this is not a valid str", 'b: "\\ud800"'),
        ("a: &a [*a]", 1, "it is nested too deeply, or an anchor holds itself", "a: &a [*a]"),
        ("a: 1\nb: &b {<<: *b}", 2, "it is nested too deeply, or an anchor holds itself", "b: &b {<<: *b}"),
    ],
)
def test_yaml_that_is_not_accepted(tmp_path: Path, text: str, line: int, problem: str, given: str | None) -> None:
    message = complaint(tmp_path, text)
    assert message.startswith(f"study.yaml:{line}: this is not accepted as YAML: ")
    assert problem in message
    assert message.replace("\\\\", "\\").endswith(f"; correct {(given or text)!r}".replace("\\\\", "\\"))


def test_numbers_and_escapes_out_of_range(tmp_path: Path) -> None:
    assert complaint(tmp_path, f"seed: {'9' * 5000}").startswith(
        "study.yaml:1: this is not accepted as YAML: this is not a valid int"
    )
    assert complaint(tmp_path, 'a: "\\UFFFFFFFF"').startswith("study.yaml:1: this is not accepted as YAML: ")
    assert complaint(tmp_path, "[" * 3000).startswith("study.yaml:1: this is not accepted as YAML: it is nested too deeply")


@pytest.mark.parametrize("twice", ["[*a{0}, *a{0}]", "{{<<: [*a{0}, *a{0}]}}"])
def test_aliases_cannot_expand_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, twice: str) -> None:
    monkeypatch.setattr("kd_hpo.config.yaml_source.MAX_VALUES", 1000)
    start = "a0: &a0 [1]\n" if twice[0] == "[" else "a0: &a0 {x: 1}\n"
    text = start + "".join(f"a{i + 1}: &a{i + 1} {twice.format(i)}\n" for i in range(60))
    assert "it holds more than 1000 values, those of aliases" in complaint(tmp_path, text)


# ---- settings that are not accepted


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: a\n\nsede: 3", "study.yaml:3: sede is not a key (given 3); did you mean seed?"),
        (
            "bounds:\n  zzz: [1]",
            "study.yaml:2: bounds.zzz is not a key (given [1]); the keys there are low, high",
        ),
        (
            "optimizer:\n  kind: sgd\n  lrr: 0.1",
            "study.yaml:3: optimizer.lrr is not a key of kind sgd (given 0.1); did you mean optimizer.lr?",
        ),
        (
            "optimizer:\n  beta: 1\n  kind: adam",
            "study.yaml:2: optimizer.beta is not a key of kind adam (given 1); did you mean optimizer.betas?",
        ),
        (
            "optimizer: {kind: sgd,\n betas: 1}",
            "study.yaml:2: optimizer.betas is not a key of kind sgd (given 1); the keys there are kind, lr, momentum",
        ),
        (
            "maybe:\n  kind: adam\n  momentum: 1",
            "study.yaml:3: maybe.momentum is not a key of kind adam (given 1); the keys there are kind, lr, betas",
        ),
        (
            "layers:\n- width: 1\n- width: 2\n  widht: 3",
            "study.yaml:4: layers.1.widht is not a key (given 3); did you mean layers.1.width?",
        ),
        (
            "layers:\n- optimizer:\n    kind: adam\n    lrr: 3",
            "study.yaml:4: layers.0.optimizer.lrr is not a key of kind adam (given 3); did you mean layers.0.optimizer.lr?",
        ),
        (
            "by_name:\n  sgd:\n    kind: adam\n    adam: 3",
            "study.yaml:4: by_name.sgd.adam is not a key of kind adam (given 3); the keys there are kind, lr, betas",
        ),
        (
            "by_name:\n  a.b:\n    kind: sgd\n    momentun: 3",
            "study.yaml:4: by_name.a.b.momentun is not a key of kind sgd (given 3); did you mean by_name.a.b.momentum?",
        ),
        ("bounds:\n  lo.w: 3", "study.yaml:2: bounds.lo.w is not a key (given 3); did you mean bounds.low?"),
        (
            "mixed:\n  a:\n  - kind: sgd\n    lrr: 3",
            "study.yaml:4: mixed.a.0.lrr is not a key of kind sgd (given 3); did you mean mixed.a.0.lr?",
        ),
        ("either:\n  widht: 3", "study.yaml:2: either.widht is not a key (given 3); did you mean either.width?"),
        ("'': 2", "study.yaml:1: '' is not a key (given 2); the keys there are " + ", ".join(Study.model_fields)),
        ("1: 2", "study.yaml:1: 1 is not a key (given 1); the keys there are " + ", ".join(Study.model_fields)),
        ('"a\\nb": 2', "study.yaml:1: a b is not a key (given 2); the keys there are " + ", ".join(Study.model_fields)),
    ],
)
def test_unknown_keys(tmp_path: Path, text: str, message: str) -> None:
    assert complaint(tmp_path, text) == message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "optimizer:\n  lr: 1\n  kind: sdg",
            "study.yaml:3: optimizer.kind is 'sdg'; it should be one of sgd, adam; did you mean sgd?",
        ),
        ("optimizer:\n  kind: rms", "study.yaml:2: optimizer.kind is 'rms'; it should be one of sgd, adam"),
        ("optimizer:\n  kind: [1]", "study.yaml:2: optimizer.kind is '[1]'; it should be one of sgd, adam"),
        ("seed: 1\nmaybe:\n  lr: 1", "study.yaml:2: maybe.kind is missing; add it: one of sgd, adam"),
        (
            "layers:\n- optimizer: {kind: adm}",
            "study.yaml:2: layers.0.optimizer.kind is 'adm'; it should be one of sgd, adam; did you mean adam?",
        ),
        ("by_name:\n  x: {}", "study.yaml:2: by_name.x.kind is missing; add it: one of sgd, adam"),
        ("optimizer: sgd", "study.yaml:1: optimizer is 'sgd'; it should be a mapping whose kind is one of sgd, adam"),
    ],
)
def test_wrong_kinds(tmp_path: Path, text: str, message: str) -> None:
    assert complaint(tmp_path, text) == message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seed: 1\nname: 3", "study.yaml:2: name is 3; it should be a valid string"),
        ("seed:\n  - 1", "study.yaml:1: seed is [1]; it should be a valid integer"),
        ("optimizer:\n  kind: sgd\n  lr: -1", "study.yaml:3: optimizer.lr is -1; it should be greater than 0"),
        ("bounds: {low: .nan}", "study.yaml:1: bounds.low is nan; it should be a finite number"),
        ("mode: fats", "study.yaml:1: mode is 'fats'; it should be 'slow' or 'fast'"),
        ("layers: [1]", "study.yaml:1: layers.0 is 1; it should be a mapping with the keys width, optimizer"),
        ("by_name: 3", "study.yaml:1: by_name is 3; it should be a mapping"),
        (
            "matrix:\n- [1, 2]\n- [3,\n   x]",
            "study.yaml:4: matrix.1.1 is 'x'; it should be a valid number, unable to parse string as a number",
        ),
        (
            "seed: 1\nwidths:\n  x: 3",
            "study.yaml:3: the key widths.x is 'x'; it should be a valid integer, unable to parse string as an integer",
        ),
        (
            "tables:\n  x: {}",
            "study.yaml:2: the key tables.x is 'x'; it should be a valid integer, unable to parse string as an integer",
        ),
        (
            "mixed: {a: x}",
            "study.yaml:1: mixed.a is 'x'; it should be a valid list or a valid number, unable to parse string as a number",
        ),
        ("either: 3", "study.yaml:1: either is 3; it should be a valid string or a mapping with the keys width, optimizer"),
        (
            "maybe:\n  kind: adam\n  betas: [1]",
            "study.yaml:3: maybe.betas.1 is missing; add it: a number",
        ),
        (
            "seed: 1\nbounds:\n  low: 3\n  high: 2",
            "study.yaml:2: bounds is {'high': 2, 'low': 3}; low 3.0 must be below high 2.0",
        ),
    ],
)
def test_wrong_values(tmp_path: Path, text: str, message: str) -> None:
    assert complaint(tmp_path, text) == message


def test_missing_keys_are_sought_in_what_should_hold_them(tmp_path: Path) -> None:
    assert complaint(tmp_path, "# nothing\n\nname: a", model=Strict).split("\n") == [
        "study.yaml:3: layer is missing; add it: a mapping with the keys width, optimizer",
        "study.yaml:3: optimizer is missing; add it: a mapping whose kind is one of sgd, adam",
        "study.yaml:3: matrix is missing; add it: a list",
        "study.yaml:3: rate is missing; add it: a number or a mapping whose kind is one of sgd, adam",
    ]


def test_a_value_that_no_member_of_a_union_takes(tmp_path: Path) -> None:
    message = complaint(tmp_path, "layer: {}\noptimizer: {kind: sgd}\nname: a\nmatrix: []\nrate: x", model=Strict)
    number = "study.yaml:5: rate is 'x'; it should be a valid number, unable to parse string as a number"
    assert message == f"{number} or a mapping whose kind is one of sgd, adam"


def test_each_mistake_has_its_line(tmp_path: Path) -> None:
    text = "seed: x\noptimizer:\n  kind: sgd\n  lrr: 1\n  momentum: y\nnam: 3"
    assert complaint(tmp_path, text, "bounds.low=z").split("\n") == [
        "study.yaml:1: seed is 'x'; it should be a valid integer, unable to parse string as an integer",
        "study.yaml:5: optimizer.momentum is 'y'; it should be a valid number, unable to parse string as a number",
        "study.yaml:4: optimizer.lrr is not a key of kind sgd (given 1); did you mean optimizer.lr?",
        "--set bounds.low=z: bounds.low is 'z'; it should be a valid number, unable to parse string as a number",
        "study.yaml:6: nam is not a key (given 3); did you mean name?",
    ]


def test_many_mistakes_are_counted(tmp_path: Path) -> None:
    lines = complaint(tmp_path, f"matrix: [[{', '.join('x' * 25)}]]").split("\n")
    assert len(lines) == 21
    assert lines[19].startswith("study.yaml:1: matrix.0.19 is 'x'")
    assert lines[20] == "and 5 more mistakes"


def test_a_key_from_a_merge_has_the_line_of_its_anchor(tmp_path: Path) -> None:
    text = "by_name:\n  a: &a\n    kind: sgd\n    lr: 1\n  b:\n    <<: *a\n    momentun: 3\n"
    text += "maybe:\n  lr: 3\n  <<:\n   - {kind: adam,\n      lr: -1, betas: x}"
    assert complaint(tmp_path, text).split("\n") == [
        "study.yaml:12: maybe.betas is 'x'; it should be a list",
        "study.yaml:7: by_name.b.momentun is not a key of kind sgd (given 3); did you mean by_name.b.momentum?",
    ]
    for text in (
        "  a:\n    <<:\n      kind: sgd\n      lr: 1\n    lr: -1",
        "  a:\n\n\n\n    lr: -1\n    <<:\n      kind: sgd\n      lr: 1",
    ):
        message = complaint(tmp_path, f"by_name:\n{text}")
        assert message == "study.yaml:6: by_name.a.lr is -1; it should be greater than 0"


def test_long_values_are_cut(tmp_path: Path) -> None:
    long = ["x" * 70] * 5
    message = complaint(tmp_path, f"seed: {'x' * 5000}\nmode: {long}")
    assert [len(line) < 250 for line in message.split("\n")] == [True, True]


# ---- overrides that are not accepted


FILE = "name: a\nmatrix: [[1, 2], [3, 4]]\noptimizer:\n  kind: sgd\n  momentum: 0.5\nbounds:\n  low: 0.5\n"


@pytest.mark.parametrize(
    ("override", "mistake"),
    [
        ("seed", "there is no `=` in it; write --set key.key=value"),
        ("a..b=1", "'a..b' is no path; write 1 to 50 names joined by single dots: key.key.key"),
        ("=1", "'' is no path; write 1 to 50 names joined by single dots: key.key.key"),
        (
            "seed={a: 1, a: 2}",
            "line 1: this is not accepted as YAML: the key 'a' is already on line 1; correct '{a: 1, a: 2}'",
        ),
        ("matrix.2=1", "there is no matrix.2, as matrix holds 2 items; they count from 0"),
        ("matrix.00=1", "there is no matrix.00, as matrix holds 2 items; they count from 0"),
        ("matrix.0.2=1", "there is no matrix.0.2, as matrix.0 holds 2 items; they count from 0"),
        ("name.x=1", "there is no name.x, as name is 'a'; set name itself"),
        ("sede=3", "sede is not a key (given 3); did you mean seed?"),
        ("sede.x=3", "sede is not a key (given {'x': 3}); did you mean seed?"),
        (
            "optimizer.momentun=3",
            "optimizer.momentun is not a key of kind sgd (given 3); did you mean optimizer.momentum?",
        ),
        ("optimizer.lr=-1", "optimizer.lr is -1; it should be greater than 0"),
        (
            "optimizer={kind: adam, lrr: 1}",
            "optimizer.lrr is not a key of kind adam (given 1); did you mean optimizer.lr?",
        ),
        (
            "optimizer={betas: [0, 0]}",
            "optimizer.betas is not a key of kind sgd (given [0, 0]); the keys there are kind, lr, momentum",
        ),
        ("optimizer.kind=adm", "optimizer.kind is 'adm'; it should be one of sgd, adam; did you mean adam?"),
        ("maybe.lr=1", "maybe.kind is missing; add it: one of sgd, adam"),
        ("layers=[{width: 2}, {width: 0}]", "layers.1.width is 0; it should be greater than 0"),
        ("matrix.0.1=x", "matrix.0.1 is 'x'; it should be a valid number, unable to parse string as a number"),
    ],
)
def test_overrides(tmp_path: Path, override: str, mistake: str) -> None:
    assert complaint(tmp_path, FILE, override) == f"--set {override}: {mistake}"


def test_what_is_not_given_is_that_of_the_default_its_kind_too(tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    path.write_text("name: a\n")
    assert read_settings(Study, path, ["optimizer.lr=3"]).optimizer == Sgd(lr=3)
    path.write_text("name: a\noptimizer: {lr: 2}\n")
    assert read_settings(Study, path).optimizer == Sgd(lr=2)
    path.write_text("name: a\noptimizer: {kind: adam}\n")
    assert read_settings(Study, path, ["optimizer.lr=3"]).optimizer == Adam(lr=3)


def test_a_mistake_of_the_file_names_the_override_that_made_it_one(tmp_path: Path) -> None:
    kind = "study.yaml:5 with --set optimizer.kind=adam: optimizer.momentum is not a key of kind adam (given 0.5); "
    assert complaint(tmp_path, FILE, "optimizer.kind=adam") == kind + "the keys there are kind, lr, betas"
    bounds = "study.yaml:6 with --set bounds.low=2: bounds is {'low': 2}; low 2.0 must be below high 1.0"
    assert complaint(tmp_path, FILE, "bounds.low=2", "seed=1") == bounds


def test_half_a_character_in_an_override(tmp_path: Path) -> None:
    assert complaint(tmp_path, FILE, "a\udc80=1").startswith("--set a\\udc80=1: 'a\\udc80' is no path;")
    assert complaint(tmp_path, FILE, "name=\udc80").startswith("--set name=\\udc80: line 1: this is not accepted as YAML:")


def test_the_last_override_of_a_key_is_named(tmp_path: Path) -> None:
    assert complaint(tmp_path, "name: a", "seed=x", "seed=y").startswith("--set seed=y: seed is 'y';")
    assert complaint(tmp_path, "name: a", "sede.x=1", "sede.y=1").startswith("--set sede.y=1: sede is not a key")
    message = complaint(tmp_path, "name: a", "bounds={low: x}", "bounds.high=y").split("\n")
    assert [line.split(": bounds.")[0] for line in message] == ["--set bounds={low: x}", "--set bounds.high=y"]


def test_a_long_override_is_cut(tmp_path: Path) -> None:
    assert complaint(tmp_path, "name: a", f"seed={'x' * 500}").startswith(f"--set seed={'x' * 92}...: seed is")


# ---- the parts that other modules use


def test_overrides_leave_the_data_alone() -> None:
    data = {"a": {"b": 1}}
    overrides = parse_overrides(["a.b=2", "c.d = [x, 1e-3]"])
    assert [override.path for override in overrides] == [("a", "b"), ("c", "d")]
    assert apply_overrides(data, overrides) == {"a": {"b": 2}, "c": {"d": ["x", 0.001]}}
    assert data == {"a": {"b": 1}}


def test_plain_data_with_overrides() -> None:
    data = {"name": "a", "optimizer": {"kind": "adam"}, "by_name": {"a.b": {"kind": "sgd"}}}
    expected = Study(name="a", optimizer=Adam(lr=0.002), by_name={"a.b": Sgd(lr=3)})
    assert validated(Study, data, ["optimizer.lr=2e-3", "by_name.a.b.lr=3"], name="the export's configuration") == expected
    assert data["optimizer"] == {"kind": "adam"}


def test_mistakes_in_plain_data_have_its_name_or_the_override() -> None:
    data = {"sede": 1, "mode": "fats", "bounds": {"low": 0.5}, "by_name": {"a.b": {"kind": "sgd", "lr": -1}}, "layers": [{}]}
    overrides = ["seed=x", "bounds.high=0", "layers.0.width=0", "maybe.lr=1"]
    with pytest.raises(ConfigError) as caught:
        validated(Study, data, overrides, name="the export")
    assert sorted(str(caught.value).split("\n")) == [
        "--set layers.0.width=0: layers.0.width is 0; it should be greater than 0",
        "--set maybe.lr=1: maybe.kind is missing; add it: one of sgd, adam",
        "--set seed=x: seed is 'x'; it should be a valid integer, unable to parse string as an integer",
        "the export with --set bounds.high=0: bounds is {'high': 0, 'low': 0.5}; low 0.5 must be below high 0.0",
        "the export: by_name.a.b.lr is -1; it should be greater than 0",
        "the export: mode is 'fats'; it should be 'slow' or 'fast'",
        "the export: sede is not a key (given 1); did you mean seed?",
    ]
    for override in ("seed", "layers.1.width=1", "a..b=1", "name=[", "optimizer.lr=x"):
        with pytest.raises(ConfigError, match=f"^--set {re.escape(override)}: "):
            validated(Study, {"layers": [{}], "optimizer": {"kind": "sgd"}}, [override], name="the export")


def test_what_is_wrong_between_settings_has_its_line(tmp_path: Path) -> None:
    def check(study: Study) -> Iterator[Mistake]:
        yield Mistake(("by_name", "a", "b"), "first")
        yield Mistake(("bounds", "low"), "second")
        yield Mistake(("seed",), "third")

    (tmp_path / "study.yaml").write_text("name: a\nby_name:\n  a.b: {kind: sgd}\n")
    with pytest.raises(ConfigError) as caught:
        read_settings(Study, tmp_path / "study.yaml", ["seed=3"], check)
    assert str(caught.value).replace(f"{tmp_path}/", "").split("\n") == [
        "study.yaml:3: first",
        "study.yaml:1: second",
        "--set seed=3: third",
    ]


# ---- paths in settings

STUDY = Study(layers=[Layer(), Layer(width=2)], by_name={"a.b": Sgd()})


def test_replace_path() -> None:
    assert replace_path(STUDY, "layers.1.width", 5) == STUDY.replace(layers=[Layer(), Layer(width=5)])
    assert replace_path(STUDY, "matrix.0.1", 7) == STUDY.replace(matrix=((1, 7), (3, 4)))
    assert replace_path(STUDY, "optimizer", {"kind": "adam"}) == STUDY.replace(optimizer=Adam())
    assert replace_path(STUDY, "optimizer", Adam()) == STUDY.replace(optimizer=Adam())
    assert replace_path(STUDY, "by_name.a.b.lr", 2) == STUDY.replace(by_name={"a.b": Sgd(lr=2)})
    assert replace_path(STUDY, "by_name.new", {"kind": "sgd"}) == STUDY.replace(by_name={"a.b": Sgd(), "new": Sgd()})
    assert Study(layers=[Layer(), Layer(width=2)], by_name={"a.b": Sgd()}) == STUDY


@pytest.mark.parametrize(
    ("dotted", "value", "message"),
    [
        ("optimiser.lr", 1, "optimiser.lr is not a path of Study; did you mean optimizer.lr?"),
        ("layers.1.widht", 1, "layers.1.widht is not a path of Study; did you mean layers.1.width?"),
        ("layers.2.width", 1, "layers.2.width is not a path of Study; did you mean layers.1.width?"),
        ("seed.x", 1, "seed.x is not a path of Study; did you mean seed?"),
        ("zzz", 1, "replacing zzz: zzz is not a key (given 1); the keys there are " + ", ".join(Study.model_fields)),
        ("optimizer.lr", -1, "replacing optimizer.lr: optimizer.lr is -1; it should be greater than 0"),
        (
            "optimizer",
            {"kind": "adam", "lrr": 1},
            "replacing optimizer: optimizer.lrr is not a key of kind adam (given 1); did you mean optimizer.lr?",
        ),
        (
            "optimizer.kind",
            "adam",
            "replacing optimizer.kind: optimizer.momentum is not a key of kind adam (given 0.9); "
            "the keys there are kind, lr, betas",
        ),
        ("bounds.high", -1, "replacing bounds.high: bounds is {'high': -1, 'low': 0.0}; low 0.0 must be below high -1.0"),
        ("a..b", 1, "'a..b' is no path; write 1 to 50 names joined by single dots: key.key.key"),
    ],
)
def test_replace_path_refuses(dotted: str, value: object, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        replace_path(STUDY, dotted, value)
    assert str(caught.value) == message


def test_paths_are_replaced_in_order_and_validated_once(monkeypatch: pytest.MonkeyPatch) -> None:
    changes = {"optimizer": {"kind": "adam"}, "optimizer.lr": 2, "layers.1.width": 5, "bounds": {"low": 5, "high": 6}}
    one_by_one = STUDY
    for dotted, value in changes.items():
        one_by_one = replace_path(one_by_one, dotted, value)
    monkeypatch.setattr("kd_hpo.config.read.replace_path", lambda *_: pytest.fail("replaced one by one"))
    assert replace_paths(STUDY, changes) == one_by_one


def test_a_path_may_lead_into_the_defaults_of_another() -> None:
    changed = replace_paths(STUDY, {"optimizer": {"kind": "adam"}, "optimizer.betas.0": 0.5})
    assert changed == STUDY.replace(optimizer=Adam(betas=(0.5, 0.999)))


def test_of_several_paths_the_wrong_one_is_told() -> None:
    with pytest.raises(ConfigError, match=r"^layers\.1\.widht is not a path of Study; did you mean layers\.1\.width\?$"):
        replace_paths(STUDY, {"seed": 1, "layers.1.widht": 1, "optimizer.lr": 2})


# ---- no input gives anything but settings or a ConfigError of printable lines

NAMES = [*Study.model_fields, *Adam.model_fields, "sgd", "adam", "width", "momentum", "low", "0", "1"]
TOKENS = [*NAMES, *"{}[],~1\n\t?|>'#@`", "- ", ": ", "  ", "&a ", "*a", "<<: ", "!!int ", "!!set ", "!!null ", "!<x> ", "1e-3"]
TOKENS += ["---", "...", "%YAML 1.1\n", '"\\ud800"', '"\\UFFFFFFFF"', "\x85", "\u2028", "\x00", ".nan", "\\x00"]
text_like_yaml = st.lists(st.sampled_from(TOKENS), max_size=25).map("".join)
scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.sampled_from(NAMES)
keys = st.sampled_from(NAMES) | st.text(max_size=3) | st.integers() | st.none() | st.floats()
trees = st.recursive(scalars, lambda tree: st.lists(tree, max_size=3) | st.dictionaries(keys, tree, max_size=4), max_leaves=12)
files = (
    st.binary(max_size=60)
    | text_like_yaml.map(str.encode)
    | st.dictionaries(st.sampled_from(list(Study.model_fields)) | keys, trees, max_size=5).map(
        lambda tree: yaml.safe_dump(tree, allow_unicode=True).encode("utf-8", "surrogatepass")
    )
)
dotted_paths = st.lists(st.sampled_from(NAMES), min_size=1, max_size=4).map(".".join)
override_texts = st.text(max_size=8) | st.tuples(dotted_paths, text_like_yaml).map("=".join)


@hypothesis_settings(deadline=None, max_examples=300, derandomize=True)
@given(raw=files, overrides=st.lists(override_texts, max_size=2))
def test_any_file_and_override(tmp_path_factory: pytest.TempPathFactory, raw: bytes, overrides: list[str]) -> None:
    file = tmp_path_factory.getbasetemp() / "any.yaml"
    file.write_bytes(raw)
    try:
        assert isinstance(read_settings(Study, file, overrides), Study)
    except ConfigError as error:
        assert all(line and line.isprintable() for line in str(error).split("\n"))


@hypothesis_settings(deadline=None, max_examples=100, derandomize=True)
@given(dotted=dotted_paths | st.text(max_size=8), value=trees)
def test_any_path_and_value(dotted: str, value: object) -> None:
    try:
        assert isinstance(replace_path(STUDY, dotted, value), Study)
    except ConfigError as error:
        assert all(line and line.isprintable() for line in str(error).split("\n"))

"""Which settings act on which method, what each search chooses, and what a trial makes of what was found."""

from pathlib import Path
from typing import Any

import pytest

from kd_hpo.config.arms import ARM
from kd_hpo.config.methods import METHODS
from kd_hpo.config.study import DEFAULT_SPACE, Choice, LogUniformRange, StudyConfig, UniformRange, gives
from kd_hpo.config.weightings import CrossLayerAttention, FixedMatrix, LearnedWeights, NoPairs, Uniform
from kd_hpo.errors import ConfigError
from kd_hpo.study.design.trials import acting_paths, as_matrix, compared_ids, method_of, searches, space_of, trial_config, untried
from kd_hpo.study.store.folder import TrialSpec
from tests.conftest import digits_study
from tests.study.helpers import LEARNED

SEARCHED = {"training.optimizer.lr": 0.03, "kd.weight": 1.7, "weighting.step": 0.2}
SHAPE = (3, 2)
LR = {"training.optimizer.lr": {"kind": "loguniform", "low": 0.01, "high": 0.2}}
KD = {"training.optimizer.lr", "kd.weight", "kd.temperature"}


def spec_of(method: str = LEARNED, *, seed: int = 4, **settings: Any) -> TrialSpec:
    return TrialSpec(id="x-t000", kind="search", method=method, seed=seed, settings=settings)


def study_of(tmp_path: Path, *methods: object, **changes: object) -> StudyConfig:
    compare = {"methods": methods or (LEARNED,), "seeds": 2, **changes.pop("compare", {})}  # type: ignore[dict-item]
    return digits_study(tmp_path, compare=compare, **changes)


# the configuration of a trial


@pytest.mark.parametrize("method", METHODS)
def test_every_method_has_the_searched_settings_that_it_knows(tmp_path: Path, method: str) -> None:
    config = trial_config(digits_study(tmp_path), spec_of(method, **SEARCHED))
    assert config.training.optimizer.lr == 0.03
    assert config.kd.weight == (0 if method == "ce" else 1.7)
    assert config.seed == 4
    if isinstance(METHODS[method].apply(digits_study(tmp_path).trial()).weighting, LearnedWeights):
        assert isinstance(config.weighting, LearnedWeights) and config.weighting.step == 0.2


def test_own_method_starts_from_its_base_and_sets_over_what_was_searched(tmp_path: Path) -> None:
    study = study_of(
        tmp_path,
        {"name": "strong", "base": "uniform", "set": {"kd.weight": 9.0}},
        {"name": "one", "base": "kd", "set": {"weighting": {"kind": "fixed", "matrix": [[1, 0], [0, 0], [0, 0]]}}},
        {"name": "slow", "base": "semckd", "set": {"weighting.lr": 1e-5}},
    )
    strong, one, slow = (trial_config(study, spec_of(name, **SEARCHED)) for name in ("strong", "one", "slow"))
    assert strong.weighting == Uniform() and strong.kd.weight == 9.0 and strong.training.optimizer.lr == 0.03
    assert isinstance(one.weighting, FixedMatrix) and one.kd.weight == 1.7
    assert slow.weighting == CrossLayerAttention(lr=1e-5)


def test_what_is_searched_in_a_methods_own_space_comes_over_the_method(tmp_path: Path) -> None:
    """`pairs.strength` of `search.space` is put aside by a published method; its own range is what it is searched in."""
    own = {"name": "mine", "base": "uniform", "set": {"kd.weight": 9.0}, "space": {"kd.weight": _uniform(0, 1)}}
    study = study_of(tmp_path, own, "at")
    assert trial_config(study, spec_of("mine", **{"kd.weight": 0.5})).kd.weight == 0.5
    assert trial_config(study, spec_of("at", **{"pairs.strength": 777.0})).pairs.strength == 777.0


def test_settings_of_another_search_leave_a_method_without_pairs_as_it_is(tmp_path: Path) -> None:
    study = study_of(tmp_path, "ce", weighting={"kind": "attention"}, search={"space": {"weighting.lr": _uniform(0.001, 0.1)}})
    assert trial_config(study, spec_of("ce", **{"weighting.lr": 0.05})).weighting == NoPairs()


def test_unknown_method_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=rf"there is no method 'learnt'; there are .*ce, kd, .*{LEARNED}"):
        method_of(digits_study(tmp_path), "learnt")


def _uniform(low: float, high: float) -> dict[str, object]:
    return {"kind": "uniform", "low": low, "high": high}


# which settings act on which method


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        (LEARNED, set(DEFAULT_SPACE)),
        ("ce", {"training.optimizer.lr"}),
        ("kd", KD),
        ("uniform", set(DEFAULT_SPACE) - {"weighting.step"}),
        ("vid", KD | {"pairs.regressor_lr"}),  # its loss and strength are the paper's
        ("pkt", KD),  # and has no regressors
    ],
)
def test_settings_that_act_on_a_method(tmp_path: Path, method: str, expected: set[str]) -> None:
    assert set(acting_paths(digits_study(tmp_path), method)) == expected


def test_temperature_acts_where_the_search_may_switch_kd_on(tmp_path: Path) -> None:
    off = {"kd": {"weight": 0.0}}
    both = {name: DEFAULT_SPACE[name] for name in ("kd.weight", "kd.temperature")}
    assert acting_paths(digits_study(tmp_path, search={"space": both}, **off), "uniform") == ["kd.weight", "kd.temperature"]
    alone = {"kd.temperature": DEFAULT_SPACE["kd.temperature"]}
    assert acting_paths(digits_study(tmp_path, search={"space": alone}, **off), "uniform") == []


def test_settings_that_a_method_sets_itself_do_not_act(tmp_path: Path) -> None:
    study = study_of(tmp_path, {"name": "hot", "base": "kd", "set": {"kd.temperature": 9.0}})
    assert set(acting_paths(study, "hot")) == KD - {"kd.temperature"}


def test_a_range_of_one_value_is_made_and_values_that_do_not_go_together_are_no_mistake(tmp_path: Path) -> None:
    space = {
        "training.epochs": {"kind": "choice", "values": [4]},
        "pairs.loss.variance.start": _uniform(0.05, 2.0),
        "pairs.loss.variance.floor": _uniform(0.01, 0.1),  # may be above the start
    }
    assert acting_paths(digits_study(tmp_path, search={"space": space}), "uniform") == list(space)


# searches


def test_space_of_a_method_is_what_acts_on_it_and_its_own(tmp_path: Path) -> None:
    own = {"name": "mine", "base": "at", "space": {"kd.weight": _uniform(0, 1), "weighting.kind": _choice("uniform")}}
    study = study_of(tmp_path, own)
    space = space_of(study, "mine", SHAPE)
    assert set(space) == KD | {"pairs.strength", "weighting.kind"}
    assert space["kd.weight"] == UniformRange(low=0, high=1)
    assert space["kd.temperature"] == DEFAULT_SPACE["kd.temperature"]
    assert space["pairs.strength"] == METHODS["at"].space["pairs.strength"] != DEFAULT_SPACE["pairs.strength"]


def test_a_loss_of_the_logits_that_the_study_has_not_brings_its_own_ranges(tmp_path: Path) -> None:
    """Those of the study's, around a weight of 1, end far below the weight of 9 that standardised logits have."""
    own = {"name": "mine", "base": "hetero", "set": {"kd": {"kind": "standardised"}}}
    study = study_of(tmp_path, own, "dkd", "mse", "kd")
    mine, dkd, mse = (space_of(study, name, SHAPE) for name in ("mine", "dkd", "mse"))
    assert (mine["kd.weight"].low, mine["kd.weight"].high) == pytest.approx((2.7, 36))
    assert mine.keys() == set(DEFAULT_SPACE)
    assert dkd.keys() == KD | {"kd.others"}
    assert mse.keys() == KD - {"kd.temperature"}
    given = study_of(tmp_path, "dkd", "kd", kd={"kind": "dkd", "weight": 0.5})
    for name in ("dkd", "kd"):  # it is the study's own: `search.space` has its ranges
        assert space_of(given, name, SHAPE)["kd.weight"].high == pytest.approx(2)
        assert trial_config(given, TrialSpec(id="a", kind="compare", method=name, seed=0)).kd == given.kd


def _choice(*values: object) -> dict[str, object]:
    return {"kind": "choice", "values": list(values)}


def test_each_method_has_its_own_search_and_the_searched_one_its_budget(tmp_path: Path) -> None:
    study = study_of(tmp_path, "ce", LEARNED, "kd", search={"trials": 5, "method": LEARNED}, compare={"tune": 2})
    found = searches(study, SHAPE)
    assert {name: search.trials for name, search in found.items()} == {LEARNED: 5, "ce": 2, "kd": 2}
    assert set(found["ce"].space) == {"training.optimizer.lr"}


def test_a_search_starts_from_what_the_file_makes_of_the_method(tmp_path: Path) -> None:
    study = study_of(tmp_path, "ce", "at", "kd", kd={"weight": 0.7}, search={"trials": 0}, compare={"tune": 2})
    first = {name: search.first for name, search in searches(study, SHAPE).items()}
    assert first["ce"][0] == {"training.optimizer.lr": study.training.optimizer.lr}
    assert first["kd"][0]["kd.weight"] == first["at"][0]["kd.weight"] == 0.7
    assert first["at"][0]["pairs.strength"] == 3_000


def test_a_search_of_all_weights_starts_at_equal_ones_or_at_those_that_are_given(tmp_path: Path) -> None:
    given = {"name": "given", "base": "tpe_lambda", "set": {"weighting": {"kind": "fixed", "matrix": [[4, 0], [1, 0], [2, 3]]}}}
    study = study_of(tmp_path, "tpe_lambda", given, search={"trials": 0, "space": LR}, compare={"tune": 2})
    found = {name: trial_config(study, spec_of(name, **search.first[0])) for name, search in searches(study, SHAPE).items()}
    assert found["tpe_lambda"].weighting == FixedMatrix(matrix=((0.5, 0.5),) * 3)
    assert found["given"].weighting == FixedMatrix(matrix=((1, 0), (0.25, 0), (0.5, 0.75)))
    assert {config.training.optimizer.lr for config in found.values()} == {study.training.optimizer.lr}


def test_a_search_of_some_weights_starts_at_the_matrix_of_the_file(tmp_path: Path) -> None:
    space = {"weighting.matrix.1.0": _uniform(0, 2), "training.optimizer.lr": LR["training.optimizer.lr"]}
    weighting = {"kind": "fixed", "matrix": [[1, 1], [0.3, 1], [1, 1]]}
    search = {"trials": 2, "method": "as_given", "space": space}
    found = searches(study_of(tmp_path, "ce", weighting=weighting, search=search), SHAPE)["as_given"]
    assert found.first[0] == {"weighting.matrix.1.0": 0.3, "training.optimizer.lr": 0.05}


def test_choices_hold_the_files_own_value_however_it_is_written_and_what_they_do_not_hold_is_told(tmp_path: Path) -> None:
    student = digits_study(tmp_path).student
    written = {"name": student.network.name, "arguments": dict(student.network.arguments)}  # without what goes without saying
    space = {
        "student.network": _choice({"name": "plain_conv"}, written),
        "student.layers": _choice(["conv1"], ["conv1", "fc"]),
        "weighting.keep": _choice(2, None),
        "training.batch_size": _choice(16, 64),
    }
    search = {"trials": 2, "method": LEARNED, "space": space}
    found = searches(study_of(tmp_path, LEARNED, search=search), SHAPE)[LEARNED]
    for path in ("student.network", "student.layers", "weighting.keep"):
        assert gives(found.space[path], found.first[0][path])
    (told,) = untried([found])
    assert told.startswith("training.batch_size is 32") and f"the search of {LEARNED}" in told


def test_ranges_that_a_method_brings_lie_around_what_the_study_sets(tmp_path: Path) -> None:
    study = study_of(tmp_path, {"name": "weak", "base": "at", "set": {"pairs": {"strength": 5.0}}}, "at")
    weak = space_of(study, "weak", SHAPE)["pairs.strength"]
    assert isinstance(weak, LogUniformRange) and (weak.low, weak.high) == pytest.approx((0.5, 50))
    assert space_of(study, "at", SHAPE)["pairs.strength"] == METHODS["at"].space["pairs.strength"]


@pytest.mark.parametrize(
    ("trials", "tune", "expected"), [(0, 0, set()), (3, 0, {LEARNED}), (0, 2, {"kd", LEARNED}), (3, 2, {"kd", LEARNED})]
)
def test_searches_that_there_are(tmp_path: Path, trials: int, tune: int, expected: set[str]) -> None:
    study = study_of(tmp_path, "kd", LEARNED, search={"trials": trials, "method": LEARNED}, compare={"tune": tune})
    assert set(searches(study, SHAPE)) == expected


def test_method_with_nothing_to_search_has_no_search(tmp_path: Path) -> None:
    space = {"weighting.step": DEFAULT_SPACE["weighting.step"]}
    study = study_of(tmp_path, "kd", LEARNED, search={"trials": 2, "method": LEARNED, "space": space}, compare={"tune": 2})
    assert set(searches(study, SHAPE)) == {LEARNED}
    with pytest.raises(ConfigError, match=r"search\.space \(weighting\.step\) has nothing that acts on search\.method 'kd'"):
        searches(study.replace(search={"trials": 2, "method": "kd", "space": space}), SHAPE)


def test_trials_of_the_comparison_are_a_method_and_a_seed_each(tmp_path: Path) -> None:
    assert list(compared_ids(study_of(tmp_path, "kd", "ce", seed=3)).items()) == [
        ("kd-s3", ("kd", 3)),
        ("ce-s3", ("ce", 3)),
        ("kd-s4", ("kd", 4)),
        ("ce-s4", ("ce", 4)),
    ]


# Optuna on all weights


def test_cells_make_the_whole_matrix() -> None:
    cells = {f"weighting.matrix.{t}.{s}": t + s / 10 for t in range(3) for s in range(2)}
    assert as_matrix({"kd.weight": 2.0, **cells}) == {
        "weighting": {"kind": "fixed", "matrix": [[0, 0.1], [1, 1.1], [2, 2.1]]},
        "kd.weight": 2.0,
    }
    assert as_matrix({"kd.weight": 2.0}) == {"kd.weight": 2.0}


def test_black_box_control_searches_every_cell(tmp_path: Path) -> None:
    study = study_of(tmp_path, "tpe_lambda", {"name": "mine", "base": "tpe_lambda"}, search={"space": LR})
    for name in ("tpe_lambda", "mine"):
        space = space_of(study, name, SHAPE)
        cells = [path for path in space if path.startswith("weighting.matrix.")]
        assert len(cells) == 6 and {"weighting.matrix.0.0", "weighting.matrix.2.1"} < set(cells)
        assert {space[cell] for cell in cells} == {UniformRange(low=0, high=1)}
        assert isinstance(space["training.optimizer.lr"], LogUniformRange)
        settings = {cell: i / 10 for i, cell in enumerate(cells)} | {"training.optimizer.lr": 0.07}
        config = trial_config(study, spec_of(name, **settings))
        assert config.weighting == FixedMatrix(matrix=((0, 0.1), (0.2, 0.3), (0.4, 0.5)))
        assert config.training.optimizer.lr == 0.07


@pytest.mark.parametrize(("trials", "tune", "expected"), [(5, 0, 5), (0, 3, 3), (5, 3, 5)])
def test_black_box_control_has_the_optimiser_steps_of_learned_lambda(
    tmp_path: Path, trials: int, tune: int, expected: int
) -> None:
    search = {"trials": trials, "method": LEARNED, "space": LR}
    study = study_of(tmp_path, "kd", "tpe_lambda", LEARNED, search=search, compare={"tune": tune})
    found = searches(study, SHAPE)
    assert found["tpe_lambda"].trials == found[LEARNED].trials == expected
    assert len({trial_config(study, spec_of(name)).training for name in ("tpe_lambda", LEARNED)}) == 1


def test_black_box_control_without_trials_is_refused(tmp_path: Path) -> None:
    study = study_of(tmp_path, {"name": "box", "base": "tpe_lambda"}, search={"trials": 0})
    with pytest.raises(ConfigError, match=r"^method 'box' searches lambda, and no trials are given for it; set compare.tune"):
        searches(study, SHAPE)


def test_some_cells_of_a_matrix_that_is_given(tmp_path: Path) -> None:
    weighting = {"kind": "fixed", "matrix": [[1, 1], [1, 1], [1, 1]]}
    own = {"name": "tpe", "base": LEARNED, "set": {"weighting": weighting}, "space": {"weighting.matrix.1.0": _uniform(0, 1)}}
    study = study_of(tmp_path, own, search={"space": LR})
    assert set(space_of(study, "tpe", SHAPE)) == {"training.optimizer.lr", "weighting.matrix.1.0"}
    config = trial_config(study, spec_of("tpe", **{"weighting.matrix.1.0": 0.25, "training.optimizer.lr": 0.1}))
    assert config.weighting == FixedMatrix(matrix=((1, 1), (0.25, 1), (1, 1)))


def test_a_search_of_what_the_file_leaves_out_starts_without_it(tmp_path: Path) -> None:
    space = {
        "training.clip_norm": {"kind": "choice", "values": [1.0, None]},
        "training.label_smoothing": {"kind": "uniform", "low": 0.05, "high": 0.2},
        "pairs.schedule": {"kind": "choice", "values": [{"kind": "warm_up", "epochs": 3}, None]},
    }
    study = digits_study(tmp_path, search={"trials": 3, "space": space}, compare={"methods": ["hetero"]})
    found = searches(study, SHAPE)["hetero"]
    assert found.first[0] == {"training.clip_norm": None, "training.label_smoothing": None, "pairs.schedule": None}
    (line,) = untried([found])
    assert "training.label_smoothing is None" in line


# arms


def armed(tmp_path: Path, **search: object) -> StudyConfig:
    given = {"trials": 8, "arms": ["learned", "kd", "few"], **search}
    return study_of(tmp_path, LEARNED, {"name": "mine", "base": LEARNED, "set": {}}, search=given, compare={"tune": 2})


def test_the_first_trials_of_the_search_that_is_named_are_its_arms(tmp_path: Path) -> None:
    found = searches(armed(tmp_path), SHAPE)
    assert [first[ARM] for first in found[LEARNED].first] == ["learned", "kd", "few"]
    assert {first["kd.weight"] for first in found[LEARNED].first} == {1.0}
    assert found[LEARNED].space[ARM] == Choice(values=("learned", "kd", "few"))
    assert ARM not in found["mine"].space and len(found["mine"].first) == 1
    assert [first[ARM] for first in searches(armed(tmp_path, trials=2), SHAPE)[LEARNED].first] == ["learned", "kd"]
    assert ARM not in searches(armed(tmp_path, arms=[]), SHAPE)[LEARNED].space
    assert untried(found.values()) == []


def test_an_arm_is_over_all_that_was_searched(tmp_path: Path) -> None:
    study, searched = armed(tmp_path), {**SEARCHED, "pairs.strength": 6.0}
    alone = trial_config(study, spec_of(**searched, **{ARM: "kd"}))
    assert alone.weighting == NoPairs() and alone.kd.weight == 1.7 and alone.training.optimizer.lr == 0.03
    few = trial_config(study, spec_of(**searched, **{ARM: "few"}))
    assert few.weighting == LearnedWeights(step=0.2, pairing="one_to_one", keep="half")
    assert trial_config(study, spec_of(**searched, **{ARM: "weak"})).pairs.strength == pytest.approx(2.0)


def test_an_arm_that_holds_its_weights_starts_from_none(tmp_path: Path) -> None:
    spec = spec_of(**SEARCHED, **{ARM: "uniform"}).replace(start=((0.5, 0.5), (0.0, 0.0), (0.0, 0.0)))
    assert trial_config(armed(tmp_path), spec).weighting == Uniform()

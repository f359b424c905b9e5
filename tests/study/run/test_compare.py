"""What a comparison makes of a study: its methods, seeds and trials, and what it refuses."""

from pathlib import Path

import pytest

from kd_hpo.config.study import Method, StudyConfig
from kd_hpo.errors import ConfigError
from kd_hpo.study.design.study_file import load_study
from kd_hpo.study.run.compare import NO_SEARCH, comparing
from tests.conftest import digits_study
from tests.study.helpers import LEARNED


@pytest.fixture
def study(tmp_path: Path) -> StudyConfig:
    own = {"name": "mine", "base": "kd", "set": {"kd.weight": 2.0}}
    return digits_study(tmp_path, compare={"methods": ["ce", own], "seeds": 2}, training={"epochs": 4, "batch_size": 32})


def test_methods_seeds_and_tuning_come_over_the_studys(study: StudyConfig) -> None:
    asked = comparing(study, ["vid", "mine"], seeds=5, tune=3)
    assert asked.compare.methods == ("vid", Method(name="mine", base="kd", set={"kd.weight": 2.0}))
    assert (asked.search.trials, asked.compare.seeds, asked.compare.tune) == (0, 5, 3)
    changed = {name for name in StudyConfig.model_fields if getattr(asked, name) != getattr(study, name)}
    assert changed == {"search", "compare"}


def test_what_is_not_given_is_the_studys(study: StudyConfig) -> None:
    assert comparing(study, None, seeds=None, tune=None) == study.replace(search={"trials": 0, "arms": ()})


@pytest.mark.parametrize(
    ("methods", "seeds", "tune", "words"),
    [
        (["kd", "vdi"], None, None, "a method to compare is 'vdi'; it should be one of .*, mine; did you mean vid"),
        ([], None, None, "there are no methods to compare; give some of as_given, ce"),
        (["kd", "kd"], None, None, "compare.methods.1 is 'kd', as compare.methods.0 is"),
        (None, 0, None, "compare.seeds is 0; it should be greater than 0"),
        (None, None, -1, "compare.tune is -1; it should be greater than or equal to 0"),
    ],
)
def test_what_is_refused(study: StudyConfig, methods: list[str] | None, seeds: int | None, tune: int | None, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        comparing(study, methods, seeds=seeds, tune=tune)


def test_ranges_and_scheduler_need_fit_only_where_something_is_searched(tmp_path: Path) -> None:
    """A file that is made for comparisons has no use for a search space, nor for a scheduler."""
    scheduler = {"kind": "asha", "grace_epochs": 4}
    changes = {"weighting": {"kind": "uniform"}, "training": {"epochs": 2, "batch_size": 32}}
    space = {"weighting.step": {"kind": "uniform", "low": 0.01, "high": 0.3}}
    study = digits_study(tmp_path, search={"scheduler": scheduler, "space": space}, **changes)
    path = tmp_path / "study.yaml"
    path.write_text(study.model_dump_json())
    with pytest.raises(ConfigError, match="grace_epochs"):
        load_study(path)
    loaded = load_study(path, [NO_SEARCH])
    assert comparing(loaded, ["kd", LEARNED], seeds=1, tune=0).compare.methods == ("kd", LEARNED)
    with pytest.raises(ConfigError, match=r"grace_epochs is 4(.|\n)*search.space cannot choose .*weighting.step"):
        comparing(loaded, ["kd", LEARNED], seeds=1, tune=1)

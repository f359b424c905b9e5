"""Which studies the repeats of one are."""

from pathlib import Path

import pytest

from kd_hpo.errors import ConfigError
from kd_hpo.study.design.repeats import repeats_of
from kd_hpo.study.design.trials import compared_ids
from kd_hpo.study.results.best import seed_of_searches
from kd_hpo.study.store.folder import StudyFolder
from tests.conftest import digits_study


def test_each_repeat_has_a_teacher_a_split_a_search_and_seeds_of_its_own(tmp_path: Path) -> None:
    study = digits_study(tmp_path, seed=2, search={"repeats": 10, "seed": 5}, compare={"methods": ["ce"], "seeds": 10_000})
    studies = repeats_of(study)
    assert studies[0] is study and [each.name for each in studies[:3]] == ["small", "small-r2", "small-r3"]
    for of in ("teacher", "splits", "search"):
        first = getattr(study, of).seed
        assert [getattr(each, of).seed for each in studies] == list(range(first, first + 10))
    trained = [{seed for _, seed in compared_ids(each).values()} for each in studies]
    searched = [seed_of_searches(each, StudyFolder.of(each)) for each in studies]
    assert len(set().union(*trained)) == 100_000 and len(set(searched)) == 10
    assert not set().union(*trained) & set(searched)
    changed = ("name", "seed", "search", "splits", "teacher")
    for each in studies:
        assert all(getattr(each, name) == getattr(study, name) for name in type(study).model_fields if name not in changed)
        assert each.teacher.replace(seed=study.teacher.seed) == study.teacher


def test_one_is_as_before_and_a_name_that_gets_too_long_is_told(tmp_path: Path) -> None:
    study = digits_study(tmp_path)
    assert repeats_of(study) == [study]
    with pytest.raises(ConfigError, match="64"):
        repeats_of(digits_study(tmp_path, name="x" * 63, search={"repeats": 2}))

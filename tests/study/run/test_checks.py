"""What is refused of a study that has begun."""

from pathlib import Path

import pytest

from kd_hpo.config.weightings import LearnedWeights
from kd_hpo.errors import StudyError
from kd_hpo.study.run.checks import few_updates, refuse_other_settings
from kd_hpo.study.store.folder import StudyFolder
from kd_hpo.trial.parts import Prepared
from tests.conftest import digits_study


def test_a_study_that_was_kept_with_the_metrics_own_name_goes_on(tmp_path: Path) -> None:
    study = digits_study(tmp_path)
    folder = StudyFolder.of(study)
    folder.write_settings(study)
    folder.settings.write_text(folder.settings.read_text().replace('"by": "metric"', '"by": "accuracy"'))
    (folder.root / "trials").mkdir()
    assert '"by": "accuracy"' in folder.settings.read_text() and folder.begun
    refuse_other_settings(study, folder)
    with pytest.raises(StudyError, match="already, with another search"):
        refuse_other_settings(digits_study(tmp_path, search={"by": "loss"}), folder)


@pytest.mark.parametrize(
    ("weighting", "words"),
    [
        ({"every": 4, "hold": 0.5}, ["lambda of hetero is updated 3 times in a trial of 28 steps"]),
        ({"every": 20, "hold": 0.5}, ["lambda of hetero is updated never"]),
        ({"every": 1, "hold": 0.0, "warmup": 0.0}, ["28 times"]),
    ],
)
def test_too_few_updates_of_lambda_are_told_before_the_run(
    tmp_path: Path, prepared: Prepared, weighting: dict[str, object], words: list[str]
) -> None:
    study = digits_study(tmp_path, weighting={"kind": "learned", **weighting}, compare={"methods": ["kd", "hetero"]})
    told = few_updates(study, prepared.splits)
    assert len(told) == len(words) and all(word in line for word, line in zip(words, told, strict=True))
    enough = study.replace(
        training=study.training.replace(epochs=20).model_dump(), weighting=LearnedWeights(every=1).model_dump()
    )
    assert few_updates(enough, prepared.splits) == []

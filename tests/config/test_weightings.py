"""Settings of learned weights that belong together."""

import pytest
from pydantic import ValidationError

from kd_hpo.config.weightings import LearnedWeights


def test_settings_of_an_earlier_version_move_as_they_did() -> None:
    assert LearnedWeights().evidence
    assert not LearnedWeights.model_validate({"kind": "learned", "average": 0.8}).evidence
    assert LearnedWeights.model_validate(LearnedWeights().model_dump()) == LearnedWeights()  # which names both


@pytest.mark.parametrize("settings", [{"evidence": True, "average": 0.5}, {"evidence": False, "gather": 0.3}])
def test_a_setting_of_the_other_rule_is_refused_by_name(settings: dict[str, object]) -> None:
    with pytest.raises(ValidationError, match=f"{list(settings)[1]} 0.. says nothing where evidence is"):
        LearnedWeights.model_validate(settings)

"""What a list of random views may say."""

import pytest
from pydantic import TypeAdapter, ValidationError

from kd_hpo.config.augment import Augment, Transform, in_words, mixes

READ = TypeAdapter(Augment)


def test_names_stay_names_and_mappings_are_transforms() -> None:
    steps = READ.validate_python(["flip", {"name": "RandAugment", "arguments": {"magnitude": 9}}])
    assert steps == ("flip", Transform(name="RandAugment", arguments={"magnitude": 9}))
    assert READ.dump_python(("crop", "mixup"), mode="json") == ["crop", "mixup"]  # as before there were transforms
    assert in_words(steps) == "flip, RandAugment"


def test_images_are_mixed_once() -> None:
    both = {"name": "RandomChoice", "arguments": {"transforms": ["MixUp", {"name": "CutMix"}]}}
    assert mixes("mixup") and mixes(Transform(**both)) and not mixes("flip") and not mixes(Transform(name="RandAugment"))
    READ.validate_python(["crop", both])
    with pytest.raises(ValidationError, match="mixup and RandomChoice both do"):
        READ.validate_python(["mixup", both])

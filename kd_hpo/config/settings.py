"""The base of every configuration model: typed, frozen, closed to unknown keys."""

import re
from typing import Any, Self

from pydantic import AfterValidator, BaseModel, ConfigDict


class Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)

    def replace(self, **changes: Any) -> Self:
        """A copy with some fields changed, validated as a whole (pydantic's `model_copy` does not validate)."""
        return self.model_validate(self.model_dump() | changes)


def written_as(pattern: str, words: str) -> AfterValidator:
    """Of a string that the whole pattern must match; words say what that is."""

    def checked(text: str) -> str:
        if re.fullmatch(pattern, text) is None:
            raise ValueError(f"it should be {words}")
        return text

    return AfterValidator(checked)

"""The base of every configuration model: typed, frozen, closed to unknown keys."""

from typing import Any, Self

from pydantic import BaseModel, ConfigDict


class Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)

    def replace(self, **changes: Any) -> Self:
        """A copy with some fields changed, validated as a whole (pydantic's `model_copy` does not validate)."""
        return self.model_validate(self.model_dump() | changes)

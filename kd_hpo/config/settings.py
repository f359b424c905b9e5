"""The base of every configuration model: typed, frozen, closed to unknown keys."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    Tag,
    WithJsonSchema,
    model_validator,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema
from pydantic_core.core_schema import no_info_after_validator_function

Fraction = Annotated[float, Field(ge=0, le=1)]
Seed = Annotated[int, Field(ge=0, lt=2**62)]
"""What torch takes, with room for those of a comparison above it."""
_MAX_DEPTH = 50
_MAX_KEY = 150  # YAML, as which a kept study is read again, takes 1024, and JSON writes a character with up to six


def _a_key(key: str) -> str:
    if len(key) > _MAX_KEY:
        raise ValueError(f"it should be {_MAX_KEY} characters long at most")
    return key


Key = Annotated[str, AfterValidator(_a_key)]
"""Of a mapping whose keys are not ours."""


def _plain(value: Any, depth: int = 0) -> Any:
    """A copy of what JSON keeps as it is, with lists for tuples; a study is handed to its trials, and kept, as JSON."""
    if depth > _MAX_DEPTH:
        raise ValueError(f"it should be nested {_MAX_DEPTH} deep at most")
    if isinstance(value, Mapping):
        if wrong := [key for key in value if not isinstance(key, str)]:
            raise ValueError(f"it should have strings for keys, and {wrong[0]!r} is none; write it in quotes")
        if any(len(key) > _MAX_KEY for key in value):
            raise ValueError(f"it should have keys of {_MAX_KEY} characters at most")
        return {key: _plain(item, depth + 1) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item, depth + 1) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"it should be of finite numbers, and {value} is none")
    if value is not None and not isinstance(value, str | int | float):
        raise ValueError(f"it should be of mappings, lists, strings, numbers, true, false and null, not {type(value).__name__}")
    return value


Plain = Annotated[Any, AfterValidator(_plain)]
"""What a study file can say: for settings whose meaning is somebody else's."""


def _a_path(path: Path) -> Path:
    if "\0" in str(path):
        raise ValueError("it should be a path, which has no null character")
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]*:/", str(path)):
        raise ValueError(
            "it should be a path on disk, on a cluster one that every node shares; only an image folder and files of weights may "
            "be in S3-compatible storage, as s3://BUCKET/KEY"
        )
    return path


FilePath = Annotated[Path, AfterValidator(_a_path)]


class StorageUri(str):
    """An address `s3://BUCKET/KEY` in S3-compatible storage."""

    @classmethod
    def checked(cls, uri: str) -> Self:
        if "@" in uri or "?" in uri:
            raise ValueError(
                "it should be s3://BUCKET/KEY and hold neither credentials nor options; those are AWS_ENDPOINT_URL, "
                "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY of the environment"
            )
        if not re.fullmatch(r"s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/[^/\0]+)*/?", uri) or {".", ".."} & set(uri.split("/")):
            raise ValueError("it should be a path or s3://BUCKET/KEY")
        return cls(uri)

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return no_info_after_validator_function(cls.checked, handler(str))


Location = Annotated[
    Annotated[FilePath, Tag("path")] | Annotated[StorageUri, Tag("s3")],
    Discriminator(lambda value: "s3" if isinstance(value, str) and "://" in value else "path"),
    WithJsonSchema({"type": "string", "format": "path"}),
]
"""A path on disk, or a key of S3-compatible storage, which kd_hpo.data.remote fetches."""


class Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _kind_of_the_default(cls, data: Any) -> Any:
        """`weighting: {forget: 0.2}` keeps what is not given, the kind too; another kind has to be named."""
        if not isinstance(data, Mapping):
            return data
        given = {name: data[name] for name in default_kinds(cls) if isinstance(data.get(name), Mapping)}
        kinds = {name: {"kind": default_kinds(cls)[name], **value} for name, value in given.items() if "kind" not in value}
        return {**data, **kinds} if kinds else data

    def replace(self, **changes: Any) -> Self:
        """A copy with some fields changed, validated as a whole (pydantic's `model_copy` does not validate)."""
        return self.model_validate(self.model_dump() | changes)


@cache
def default_kinds(model: type[Settings]) -> dict[str, str]:
    """Gives the kind that each field has by default, by its name, where that is one of several kinds."""
    return {name: field.default.kind for name, field in model.model_fields.items() if hasattr(field.default, "kind")}


@dataclass(frozen=True)
class WrittenAs:
    """The pattern that the whole of a string must match; `words` say what that is where it does not."""

    pattern: str
    words: str

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return no_info_after_validator_function(self.checked, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return handler(schema) | {"pattern": f"^{self.pattern}$"}

    def checked(self, text: str) -> str:
        if re.fullmatch(self.pattern, text) is None:
            raise ValueError(f"it should be {self.words}")
        return text

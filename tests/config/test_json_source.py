"""JSON that says a key twice is refused, wherever in it; what is no JSON is left to its reader."""

import pytest

from kd_hpo.config.json_source import SaidTwice, require_keys_once


@pytest.mark.parametrize("text", ['{"a": 1, "a": 1}', '{"b": [{"a": 1, "c": 2, "a": 3}]}', '{"\\u0061": 1, "a": 2}'])
def test_a_key_that_stands_twice_is_named(text: str) -> None:
    with pytest.raises(SaidTwice, match="'a' stands twice"):
        require_keys_once(text)


@pytest.mark.parametrize("text", ['{"a": {"a": 1}, "b": [{"a": 1}, {"a": 2}]}', "no JSON", b"\xff", "[" * 100_000, ""])
def test_all_else_is_not_its_business(text: str | bytes) -> None:
    require_keys_once(text)

"""What Ray is told before it is imported."""

import os

import pytest

from kd_hpo.study.environment import prepare_environment


@pytest.mark.parametrize(("given", "mode"), [
    ({}, None),
    ({"RAY_AUTH_TOKEN_PATH": "/run/secrets/token"}, "token"),
    ({"RAY_AUTH_TOKEN": "0" * 64}, "token"),
    ({"RAY_AUTH_TOKEN": "0" * 64, "RAY_AUTH_MODE": "disabled"}, "disabled"),
])  # fmt: skip
def test_ray_asks_for_a_token_where_one_is_given(
    monkeypatch: pytest.MonkeyPatch, given: dict[str, str], mode: str | None
) -> None:
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.setenv(name, "")  # so that it is as before afterwards
        monkeypatch.delenv(name)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    prepare_environment()
    assert os.environ.get("RAY_AUTH_MODE") == mode

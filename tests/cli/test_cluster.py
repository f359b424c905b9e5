"""kd-hpo submit, as far as it comes without a cluster; jobs that run are in tests/service."""

from pathlib import Path
from socket import create_server

import pytest

from tests.cli.conftest import Command

pytestmark = pytest.mark.filterwarnings("ignore:Cyclopts application invoked without tokens")


@pytest.fixture
def nobody() -> str:
    """An address at which nothing listens."""
    with create_server(("127.0.0.1", 0)) as taken:
        return f"http://127.0.0.1:{taken.getsockname()[1]}"


def test_a_study_that_cannot_be_read_is_told_before_anybody_is_asked(kd_hpo: Command, nobody: str) -> None:
    assert "none.yaml" in kd_hpo("submit", "none.yaml", "--address", nobody).error


def test_an_address_at_which_nobody_answers_is_told(
    kd_hpo: Command, study: Path, nobody: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_API_SERVER_ADDRESS", raising=False)
    told = kd_hpo("submit", study, "--address", nobody, "--json")
    assert told.out == "" and nobody in told.error and "--address" in told.error

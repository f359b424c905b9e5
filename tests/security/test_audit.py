"""What is installed has no known vulnerability, as far as the network lets one know."""

import json
import os

import pytest

from tests.security.audit import audit, read

WHOLE = {"name": "a", "version": "1.0", "vulns": []}
HIT = {"name": "b", "version": "2.0", "vulns": [{"id": "CVE-1"}, {"id": "CVE-2"}]}
SKIPPED = {"name": "c", "skip_reason": "Dependency not found on PyPI"}


@pytest.mark.parametrize(
    ("packages", "code", "line"),
    [
        ([WHOLE], 0, "audit: no known vulnerability (1 packages looked up)"),
        ([WHOLE, HIT], 1, "audit: known vulnerabilities in b 2.0 (CVE-1, CVE-2) (2 packages looked up)"),
        (
            [WHOLE, SKIPPED],
            2,
            "audit: no known vulnerability (1 packages looked up); not looked up, so that nothing is known of them: c",
        ),
        (
            [SKIPPED],
            2,
            "audit: nothing is known: the package index in use here tells no vulnerabilities of any of the 1 packages; "
            "run `make audit` where pypi.org answers",
        ),
    ],
)
def test_the_audit_says_in_one_line_what_is_known(packages: list[dict[str, object]], code: int, line: str) -> None:
    told = read(json.dumps({"dependencies": packages}), "")
    assert (told.exit_code, str(told)) == (code, line)


def test_without_a_network_the_audit_ends_in_one_line() -> None:
    """No traceback of pip-audit's: its last line is the reason."""
    told = audit(environment=os.environ | {"HTTPS_PROXY": "http://127.0.0.1:1", "NO_PROXY": "", "no_proxy": ""})
    assert told.exit_code == 2
    assert "could not be asked" in str(told)
    assert "\n" not in str(told) and "Traceback" not in str(told)


@pytest.mark.network
def test_no_installed_package_has_a_known_vulnerability() -> None:
    """As `make audit`, but skipped where nobody can be asked: then nothing is known."""
    told = audit()
    if not told.known:
        pytest.skip(str(told))
    assert not told.vulnerable

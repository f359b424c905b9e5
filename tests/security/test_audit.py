"""What is installed has no known vulnerability, as far as the network lets one know."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ASKED = [sys.executable, "-m", "pip_audit", "--progress-spinner", "off", "--timeout", "5", "--format", "json"]


def told(*arguments: str) -> list[dict[str, Any]]:
    audit = subprocess.run([*ASKED, *arguments], capture_output=True, text=True, check=False)
    return json.loads(audit.stdout)["dependencies"] if audit.stdout else []


@pytest.mark.network
def test_no_installed_package_has_a_known_vulnerability(tmp_path: Path) -> None:
    """As `make audit`, but skipped where nobody can be asked: then nothing is known."""
    one = tmp_path / "one.txt"
    one.write_text("pyyaml==6.0.3\n")
    if not any("vulns" in package for package in told("--requirement", str(one), "--no-deps", "--disable-pip")):
        pytest.skip("the package index in use here tells no vulnerabilities, or does not answer; run `make audit` elsewhere")
    packages = told("--local", "--skip-editable")
    assert packages
    assert not [f"{each['name']} {each['version']}: {each['vulns']}" for each in packages if each.get("vulns")]

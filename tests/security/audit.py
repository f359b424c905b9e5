"""Asks for known vulnerabilities of what is installed in this environment; `make audit` runs it.

    python -m tests.security.audit

Says in one line what is known. Exit code 0: every package was looked up and none has one; 1: some have; 2: some or all could not
be looked up, so that nothing is known of them.
"""

import json
import subprocess
import sys
from dataclasses import dataclass

COMMAND = ["-m", "pip_audit", "--local", "--skip-editable", "--progress-spinner", "off", "--timeout", "10", "--format", "json"]


@dataclass(frozen=True)
class Audit:
    known: tuple[str, ...] = ()
    """Packages that were looked up, as NAME VERSION."""
    vulnerable: tuple[str, ...] = ()
    """Of these, with the names of what they have."""
    unknown: tuple[str, ...] = ()
    trouble: str = ""
    """Why nobody could be asked at all."""

    @property
    def exit_code(self) -> int:
        return 1 if self.vulnerable else 2 if self.unknown or not self.known else 0

    def __str__(self) -> str:
        if self.trouble:
            return f"audit: nothing is known, since the vulnerability service could not be asked: {self.trouble}"
        if not self.known:
            return (
                "audit: nothing is known: the package index in use here tells no vulnerabilities of any of the "
                f"{len(self.unknown)} packages; run `make audit` where pypi.org answers"
            )
        found = f"known vulnerabilities in {'; '.join(self.vulnerable)}" if self.vulnerable else "no known vulnerability"
        unknown = f"; not looked up, so that nothing is known of them: {', '.join(self.unknown)}" if self.unknown else ""
        return f"audit: {found} ({len(self.known)} packages looked up){unknown}"


def read(output: str, errors: str) -> Audit:
    """What pip-audit says in JSON; where it says nothing there, the last line of its errors is the reason."""
    try:
        packages = json.loads(output)["dependencies"]
    except (ValueError, KeyError):
        lines = [line.strip() for line in errors.splitlines() if line.strip()]
        return Audit(trouble=(lines[-1] if lines else "pip-audit said nothing")[:300])
    looked_up = [each for each in packages if "vulns" in each]
    return Audit(
        known=tuple(f"{each['name']} {each['version']}" for each in looked_up),
        vulnerable=tuple(
            f"{each['name']} {each['version']} ({', '.join(vuln['id'] for vuln in each['vulns'])})"
            for each in looked_up
            if each["vulns"]
        ),
        unknown=tuple(each["name"] for each in packages if "vulns" not in each),
    )


def audit(*, environment: dict[str, str] | None = None) -> Audit:
    asked = subprocess.run([sys.executable, *COMMAND], capture_output=True, text=True, check=False, env=environment)
    return read(asked.stdout, asked.stderr)


if __name__ == "__main__":
    result = audit()
    print(result, file=sys.stderr if result.exit_code else sys.stdout)
    sys.exit(result.exit_code)

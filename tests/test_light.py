"""The library works where nothing is installed but the light core's dependencies, and says what else is missing."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
CODE = """
import sys
sys.modules.update(dict.fromkeys(sys.argv[1:]))  # as if they were not installed
import kd_hpo
from tests.distiller.loops import LEARNED, STEPS, loop_of, train
on_evidence = {name: value for name, value in LEARNED.items() if name != "evidence"}
kd, _, optimizer = loop_of(weighting=on_evidence)
train(kd, optimizer, range(STEPS))
print(float(kd.weights.sum()))
for name in ("run_study", "run_trial"):
    try:
        getattr(kd_hpo, name)
    except ModuleNotFoundError as error:
        print(error)
"""
IMPORTED_AS = {"pillow": "PIL", "scikit-learn": "sklearn", "pyyaml": "yaml"}


def test_the_library_needs_the_light_dependencies_alone() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    names = [re.match(r"[\w-]+", each)[0] for each in project["optional-dependencies"]["study"]]
    blocked = [IMPORTED_AS.get(name, name) for name in names]
    assert {"ray", "optuna", "mlflow", "pandas", "torchvision", "scipy"} <= set(blocked)
    told = subprocess.run([sys.executable, "-c", CODE, *blocked], cwd=ROOT, capture_output=True, text=True)
    assert told.returncode == 0, told.stderr
    total, study, trial = told.stdout.splitlines()
    assert abs(float(total) - 1) < 1e-5
    assert study.startswith("kd_hpo.run_study needs ") and study.endswith("pip install 'kd_hpo[study]'")
    assert trial.startswith("kd_hpo.run_trial needs ")


def test_the_command_says_what_it_needs() -> None:
    code = "import sys; sys.modules['cyclopts'] = None; from kd_hpo.cli.entry import main; main()"
    told = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert told.returncode == 1
    assert told.stderr == "error: the command kd-hpo needs cyclopts, which is not installed: pip install 'kd_hpo[study]'\n"

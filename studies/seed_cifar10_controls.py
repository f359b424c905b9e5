"""Controls that need a finished `seed-cifar10` study: Optuna (TPE) on lambda itself, the learned lambda from the start, and
its trajectory replayed without a teacher signal. Same networks, splits, steps and outer settings as that study's best trial.

    kd-hpo run studies/seed_cifar10.yaml --set data.path=/data/cifar10
    python studies/seed_cifar10_controls.py --runs runs

TPE gets as many trainings as the study's search had.
"""

import argparse
from pathlib import Path
from typing import Any

from kd_hpo.cli import run_and_tell
from kd_hpo.config.load import with_settings
from kd_hpo.config.study import StudyConfig
from kd_hpo.study.environment import prepare_environment
from kd_hpo.study.folder import StudyFolder


def controls(study: StudyConfig, folder: StudyFolder) -> StudyConfig:
    spec = next(s.spec for s in folder.statuses() if s.spec.id == f"learned-s{study.seed}")
    learned = folder.result(spec.id)
    T, S = len(learned.teacher_layers), len(learned.student_layers)
    trial = with_settings(study.trial(), spec.settings).model_dump()
    fixed: dict[str, Any] = {"kind": "fixed", "matrix": [[1.0] * S for _ in range(T)]}
    cells = {f"weighting.matrix.{t}.{s}": {"kind": "loguniform", "low": 0.01, "high": 1.0} for t in range(T) for s in range(S)}
    replay = {"kind": "replay", "matrices": [record.weights for record in learned.records]}
    return StudyConfig.model_validate(
        trial
        | {
            "name": f"{study.name}-controls",
            "runs": study.runs,
            "resources": study.resources.model_dump(),
            "weighting": fixed,
            "search": study.search.model_dump() | {"method": "as_given", "space": cells},
            "compare": {
                "seeds": study.compare.seeds,
                "methods": [
                    {"name": "tpe-lambda", "base": "as_given"},
                    {"name": "learned-from-start", "base": "as_given", "set": {"weighting.matrix": learned.last.weights}},
                    {
                        "name": "replay-without-teacher",
                        "base": "as_given",
                        "set": {"weighting": replay, "pairs.targets": "shuffled"},
                    },
                ],
            },
        }
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--study", default="seed-cifar10")
    given = parser.parse_args()
    prepare_environment()
    folder = StudyFolder(given.runs.absolute() / given.study)
    run_and_tell(controls(folder.read_settings(), folder))

"""Controls that need a finished `seed-cifar10` study: the learned lambda from the start, and its trajectory replayed without
a teacher signal. Same networks, splits, steps and outer settings as that study's learned trial.

    kd-hpo run studies/seed_cifar10.yaml --set data.path=/data/cifar10
    python studies/seed_cifar10_controls.py --runs runs
"""

import argparse
from pathlib import Path

from kd_hpo.cli.studies import run_and_tell
from kd_hpo.config.study import StudyConfig
from kd_hpo.study.design.trials import trial_config
from kd_hpo.study.environment import prepare_environment
from kd_hpo.study.store.folder import StudyFolder


def controls(study: StudyConfig, folder: StudyFolder) -> StudyConfig:
    spec = next(s.spec for s in folder.statuses() if s.spec.id == f"hetero-s{study.seed}")
    learned = folder.result(spec.id)
    fixed = {"kind": "fixed", "matrix": learned.last.weights}
    replay = {"kind": "replay", "matrices": [record.weights for record in learned.records]}
    methods = [
        {"name": "learned-from-start", "base": "as_given", "set": {"weighting": fixed}},
        {"name": "replay-without-teacher", "base": "as_given", "set": {"weighting": replay, "pairs.targets": "shuffled"}},
    ]
    return StudyConfig.model_validate(
        trial_config(study, spec).model_dump()
        | {
            "name": f"{study.name}-controls",
            "runs": study.runs,
            "resources": study.resources.model_dump(),
            "search": {"trials": 0},
            "compare": {"seeds": study.compare.seeds, "methods": methods},
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

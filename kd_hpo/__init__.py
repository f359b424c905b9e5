"""Learns, by gradient on held-out data, which teacher layer should teach which student layer, and how much."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kd_hpo.config.study import StudyConfig as StudyConfig
    from kd_hpo.config.trial import TrialConfig as TrialConfig
    from kd_hpo.core.hypergradient import hypergradient as hypergradient
    from kd_hpo.distiller.distiller import Distiller as Distiller
    from kd_hpo.distiller.steps import Taught as Taught
    from kd_hpo.study.design.study_file import load_study as load_study
    from kd_hpo.study.matrices.apply import apply as apply
    from kd_hpo.study.run.compare import compare as compare
    from kd_hpo.study.run.driver import run_study as run_study
    from kd_hpo.study.store.export_file import load_export as load_export
    from kd_hpo.trial.result import TrialResult as TrialResult
    from kd_hpo.trial.run import run_trial as run_trial

_HOMES = {
    "Distiller": "kd_hpo.distiller.distiller",
    "StudyConfig": "kd_hpo.config.study",
    "Taught": "kd_hpo.distiller.steps",
    "TrialConfig": "kd_hpo.config.trial",
    "TrialResult": "kd_hpo.trial.result",
    "apply": "kd_hpo.study.matrices.apply",
    "compare": "kd_hpo.study.run.compare",
    "hypergradient": "kd_hpo.core.hypergradient",
    "load_export": "kd_hpo.study.store.export_file",
    "load_study": "kd_hpo.study.design.study_file",
    "run_study": "kd_hpo.study.run.driver",
    "run_trial": "kd_hpo.trial.run",
}
__all__ = [
    "Distiller",
    "StudyConfig",
    "Taught",
    "TrialConfig",
    "TrialResult",
    "apply",
    "compare",
    "hypergradient",
    "load_export",
    "load_study",
    "run_study",
    "run_trial",
]


def __getattr__(name: str) -> Any:
    """Imports a public name when it is first used, so that `import kd_hpo` needs neither torch nor Ray."""
    if name not in _HOMES:
        raise AttributeError(f"kd_hpo has no {name!r}; it has {', '.join(__all__)}")
    try:
        found = getattr(import_module(_HOMES[name]), name)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] == "kd_hpo":
            raise
        raise ModuleNotFoundError(
            f"kd_hpo.{name} needs {error.name}, which is not installed: pip install 'kd_hpo[study]'", name=error.name
        ) from error
    globals()[name] = found
    return found

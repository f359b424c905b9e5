"""A comparison of methods by itself, without a search before it: from Python, and for the command line."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from kd_hpo.config.explain import as_error
from kd_hpo.config.load import mistakes
from kd_hpo.config.methods import METHODS
from kd_hpo.config.read import replace_path
from kd_hpo.config.study import Method, StudyConfig
from kd_hpo.config.wording import config_error, not_one_of
from kd_hpo.study.design.study_file import load_study
from kd_hpo.study.environment import prepare_environment

if TYPE_CHECKING:
    import pandas as pd

NO_SEARCH = "search.trials=0"
"""For `load_study`: ranges that nothing samples need not fit."""


def compare(
    study: StudyConfig | str | Path, methods: Sequence[str] | None = None, *, seeds: int | None = None, tune: int | None = None
) -> "pd.DataFrame":
    """Runs methods on the same splits, for as many steps, at the same seeds, and returns a table of a row a method.

    It has accuracies in [0, 1], durations in seconds, and paired t-tests against the best control.

    study    a study or its file; its search is left out
    methods  names of METHODS or of the study's own methods; those of `compare.methods` if not given
    seeds    how many, counted from the study's seed
    tune     trials of a search of its own for each method, before; 0 takes the study's settings
    The columns are those of kd_hpo.study.results.comparison.COLUMNS; `frame.attrs["caption"]` says what the numbers depend on.
    Of a study with `search.repeats` above 1, a row a method over all of them: kd_hpo.study.results.repeats.REPEATS_COLUMNS.
    What stands in the study's folder is not run again; more methods or seeds may be asked for later.
    Raises ConfigError for what is not accepted, and what `run_study` raises.
    """
    prepare_environment()
    from rich.console import Console

    from kd_hpo.study.report.comparison import caption
    from kd_hpo.study.report.repeats import repeats_caption
    from kd_hpo.study.run.driver import run_study

    given = study if isinstance(study, StudyConfig) else load_study(Path(study), [NO_SEARCH])
    console = Console(stderr=True, markup=False, emoji=False, highlight=False, soft_wrap=True)
    summary = run_study(comparing(given, methods, seeds=seeds, tune=tune), console)
    frame = summary.comparison.frame()
    frame.attrs["caption"] = "\n".join(caption(summary.comparison))
    if summary.repeated:
        frame = summary.repeated.frame()
        frame.attrs["caption"] = repeats_caption(summary.repeated)
    return frame


def comparing(study: StudyConfig, methods: Sequence[str] | None, *, seeds: int | None, tune: int | None) -> StudyConfig:
    """The study without its search, with these methods, seeds and trials of tuning; None leaves its own.

    Raises ConfigError for what is not accepted.
    """
    study = replace_path(study, "search.trials", 0)
    if methods is not None:
        own = {method.name: method for method in study.compare.methods if isinstance(method, Method)}
        for name in methods:
            if name not in {**METHODS, **own}:
                raise config_error(f"a method to compare {not_one_of(name, [*METHODS, *own])}")
        study = replace_path(study, "compare.methods", [own.get(name, name) for name in methods])
    for path, number in (("compare.seeds", seeds), ("compare.tune", tune)):
        if number is not None:
            study = replace_path(study, path, number)
    if not study.compare.methods:
        raise config_error(f"there are no methods to compare; give some of {', '.join(METHODS)}")
    if found := list(mistakes(study, METHODS)):
        raise as_error(found, lambda _: "compare")
    return study

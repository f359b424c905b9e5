"""Trains students with an exported matrix, and chooses on `val` in which form it serves best."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from kd_hpo.config.trial import TrialConfig
from kd_hpo.errors import Diverged
from kd_hpo.files import cache_over, write_atomically
from kd_hpo.study.matrices.forms import Form, configs_of, matrix_of_rank
from kd_hpo.study.matrices.trust import own_places, refuse_places
from kd_hpo.study.results.final_scores import student_on_test
from kd_hpo.study.store.export_file import load_export
from kd_hpo.study.store.folder import TestScores
from kd_hpo.study.store.openings import Openings, count_opening, openings
from kd_hpo.trial.loop import BEST_WEIGHTS, LAST_WEIGHTS
from kd_hpo.trial.parts import Prepared
from kd_hpo.trial.prepare import prepare
from kd_hpo.trial.result import RESULT, EpochRecord, TrialResult
from kd_hpo.trial.run import run_trial

APPLIED = "applied.json"
"""In the folder of what was applied: what was chosen, and what each form reached."""


@dataclass(frozen=True)
class Applied:
    """The students that were trained with an exported matrix, and the one that was chosen."""

    form: Form
    """Of the chosen one."""
    forms: Mapping[Form, TrialResult | str]
    """What became of each form that was tried; of one whose loss did not stay finite, what it said."""
    test: TestScores | None
    """Of the chosen student; None where nobody asked for it, and the test split stays closed."""
    openings: Openings
    """How often `apply` has opened the test split for the file, this time included."""
    weights: Path
    """Of the chosen student after the last epoch, as safetensors."""
    same_teacher: bool
    """Whether the teacher's weights are those that the matrix was learned with."""

    @property
    def result(self) -> TrialResult:
        """The trial of the chosen student."""
        result = self.forms[self.form]
        assert isinstance(result, TrialResult)
        return result

    def document(self) -> dict[str, Any]:
        """Gives the students as plain data, for --json and for the folder."""
        tested = self.test
        chosen = _reached(self.result)
        ends = {end: chosen[end] | {"test": tested and getattr(tested, end)} for end in ("last", "best")}
        forms = {form: {"failed": each} if isinstance(each, str) else _reached(each) for form, each in self.forms.items()}
        return {
            "form": self.form,
            "forms": forms,
            **ends,
            "test_opened": self.openings.count,
            "test_opened_in": str(self.openings.record),
            "weights": str(self.weights),
            "same_teacher": self.same_teacher,
        }


def apply(
    export_file: Path | str,
    *,
    rank: int = 1,
    form: Form | None = None,
    test: bool = False,
    overrides: Sequence[str] = (),
    folder: Path | str | None = None,
    runs: Path | str = "runs",
    trust_paths: bool = False,
    report: Callable[[Form, EpochRecord], None] = lambda form, record: None,
    progress: Callable[[str], None] = lambda words: None,
) -> Applied:
    """Trains students with a matrix of a file that `kd-hpo export` wrote, one a form, and keeps the one that is best on `val`.

    Held from the start, and replayed as it was recorded, the matrix teaches on the train and outer splits together; learned
    anew, lambda needs the outer split for itself. Which is best differs from one pair of networks to the next. Where the study's
    answer was that no pairs are best, a student without them is trained too.
    rank       of the matrix; 1 is the best
    form       held, replayed, learned or without: trained alone, and nothing is chosen
    test       opens the test split for the chosen student, and counts that in the export file, or, where that cannot be written,
               in the runs folder
    overrides  settings of the trial as a.b=value; where a form is to be chosen, those of `weighting` act on `learned` alone
    folder     for the students' weights, a folder a form, with those of the chosen one beside; RUNS/applied/STUDY-RANK if None
    runs       the folder whose cache holds data and teachers; what a cache that may not be written lacks is made in `folder`
    trust_paths  the file may name any place to read: without it, one below the working folder, one of an override, or one that
               the study of its name in `runs` reads
    report     is told every epoch of every form
    Raises ExportError for a file that is no export, for a rank or a form that it does not have, and for code and places that it
    may not name by itself; ConfigError for overrides
    that do not fit; FeatureMismatch for layers that the networks do not have; Diverged where no form came to its end.
    """
    file, runs = Path(export_file), Path(runs).absolute()
    export = load_export(file)
    entry = matrix_of_rank(export, rank)
    folder = Path(folder or runs / "applied" / f"{export.study}-{rank}").absolute()
    if not trust_paths:
        refuse_places(entry.config, overrides, own_places(runs, export.study))
    without = export.answer is not None and export.answer.arm == "kd"
    configs = configs_of(entry, overrides, form, without=without)
    folder.mkdir(parents=True, exist_ok=True)  # or that is told before anything is trained
    cache = cache_over(runs / "cache", folder / "cache")
    results, parts = dict[Form, TrialResult | str](), dict[tuple[bool, bool], Prepared]()
    prepared_for = dict[Form, Prepared]()
    for each, config in configs.items():
        shared = each != "learned", config.weighting.paired
        if shared not in parts:  # forms differ in lambda alone
            parts[shared] = prepare(config, cache, progress, outer_trains=each != "learned")
        prepared_for[each] = parts[shared]
        try:
            results[each] = _trained(config, folder / each, cache, parts[shared], partial(report, each))
        except Diverged as error:
            if form is not None:
                raise
            results[each] = str(error)
    chosen = best_on_val(results)
    for name in (LAST_WEIGHTS, BEST_WEIGHTS, RESULT):
        write_atomically(folder / name, (folder / chosen / name).read_bytes())
    prepared, records = prepared_for[chosen], runs / "applied" / "test_openings"
    opened = count_opening(file, records) if test else openings(file, records)
    scores = student_on_test(configs[chosen], folder, prepared) if test else None
    same_teacher = prepared.teacher_digest == entry.teacher.weights_sha256
    applied = Applied(chosen, results, scores, opened, folder / LAST_WEIGHTS, same_teacher)
    write_atomically(folder / APPLIED, json.dumps(applied.document(), indent=1))
    return applied


def best_on_val(results: Mapping[Form, TrialResult | str]) -> Form:
    """Finds the form whose student is best on `val` after the last epoch, by the metric, then by the loss; the first of equals.

    Raises Diverged where none has come to its end.
    """

    def merit(result: TrialResult) -> tuple[float, float]:
        task = result.config.task
        return task.goal.merit(result.last.metrics), task.loss.merit(result.last.metrics)

    ended = {form: merit(result) for form, result in results.items() if isinstance(result, TrialResult)}
    if not ended:
        raise Diverged("; ".join(f"{form}: {said}" for form, said in results.items()))
    return max(ended, key=lambda form: ended[form])


def _trained(
    config: TrialConfig, folder: Path, cache: Path, prepared: Prepared, report: Callable[[EpochRecord], None]
) -> TrialResult:
    result = run_trial(config, report, cache=cache, folder=folder, prepared=prepared)
    write_atomically(folder / RESULT, result.model_dump_json(indent=1))
    return result


def _reached(result: TrialResult) -> dict[str, dict[str, Any]]:
    metric = result.config.task.goal.on("val")
    return {end: {"epoch": r.epoch, "val": r.metrics[metric]} for end, r in (("last", result.last), ("best", result.best))}

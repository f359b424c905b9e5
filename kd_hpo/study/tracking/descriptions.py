"""Writes descriptions in MLflow, in Markdown: of a trial, of a study on its way and at its end.

Layer names and messages are untrusted, since they come from modules and files that users name: they reach a description only
through `in_code` and `in_markdown`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from kd_hpo.config.study import StudyConfig
from kd_hpo.config.task import Goal
from kd_hpo.study.report.comparison import comparison_in_markdown
from kd_hpo.study.report.escaping import in_code, in_markdown
from kd_hpo.study.report.matrix import matrix_in_markdown
from kd_hpo.study.report.repeats import repeats_in_markdown
from kd_hpo.study.report.sentences import what_it_came_to, whose
from kd_hpo.study.report.words import capital, number, p_value, with_spread
from kd_hpo.study.results.comparison import Comparison, MethodScores, spread
from kd_hpo.study.results.pairs import strongest_pairs
from kd_hpo.study.results.standing import Learned
from kd_hpo.study.store.folder import StudyFolder, TrialSpec, TrialStatus
from kd_hpo.study.tracking.links import best_first_link, metrics_link, model_link, run_link
from kd_hpo.study.tracking.tracker import Ending
from kd_hpo.study.tracking.uri import NAME
from kd_hpo.trial.result import EpochRecord, Rows

_MOST_PAIRS = 100
"""Of a matrix that is shown as a table; of a larger one the strongest pairs are named."""


@dataclass(frozen=True)
class Ranking:
    """How the trials of a study stand."""

    study: str
    ranked: tuple[tuple[TrialStatus, EpochRecord], ...]
    """Completed ones and their last epochs, best first by the goal; of equal ones, those first that are tested on `test`."""
    run_ids: Mapping[str, str]
    counts: Mapping[str, int]
    """Trials of any kind by state."""
    goal: Goal
    """What the study's search goes by."""

    @property
    def best(self) -> TrialStatus | None:
        return self.ranked[0][0] if self.ranked else None

    def value(self, record: EpochRecord) -> str:
        return f"{record.metrics[self.goal.key]:.4f}"


def ranking_of(study: StudyConfig, folder: StudyFolder) -> Ranking:
    statuses, goal = folder.statuses(), study.goal
    completed = [status for status in statuses if status.state == "completed"]
    scored = [(status, folder.records(status.spec.id)[-1]) for status in completed]
    return Ranking(
        study=folder.root.name,
        ranked=tuple(sorted(scored, key=lambda entry: (-goal.merit(entry[1].metrics), entry[0].spec.kind != "compare"))),
        run_ids={status.spec.id: run for status in statuses if (run := folder.run_id(status.spec.id, NAME))},
        counts={state: sum(s.state == state for s in statuses) for state in ("completed", "running", "stopped", "failed")},
        goal=goal,
    )


def experiment_note(ranking: Ranking, experiment: str, summary: str) -> str:
    """The description of an experiment; MLflow shows its first line above the runs.

    That line is the best trial, and ways to all that a person asks next.
    """
    links = [f"[best first]({best_first_link(experiment)})", f"[summary]({run_link(experiment, summary)})"]
    best = ranking.best
    head = "**No trial has been completed yet**"
    if best is not None:
        head = f"**Best: {_trial(ranking, experiment, best)}**, {ranking.goal.key} {ranking.value(ranking.ranked[0][1])}"
        if best.spec.id in ranking.run_ids and ranking.ranked[0][1].weights:
            links.insert(0, f"[its matrix]({run_link(experiment, ranking.run_ids[best.spec.id], 'lambda.html')})")
    return "\n\n".join([" · ".join([head, *links]), *why(ranking, experiment), _progress(ranking)])


def why(ranking: Ranking, experiment: str) -> list[str]:
    """Says in paragraphs why the best trial is the best."""
    best = ranking.best
    if best is None:
        return []
    others = [f"{_trial(ranking, experiment, status)} {ranking.value(last)}" for status, last in ranking.ranked[1:4]]
    lines = [
        f"{_trial(ranking, experiment, best)} ({best.spec.method}, seed {best.spec.seed}) is the best: of the "
        f"{len(ranking.ranked)} completed trials it has {_wanted(ranking.goal)} on `{ranking.goal.split}` after its last epoch, "
        f"{ranking.value(ranking.ranked[0][1])}{'; next come ' + ', '.join(others) if others else ''}."
    ]
    return [*lines, *_settings(best.spec)]


def running_note(ranking: Ranking, experiment: str) -> str:
    """The summary of a study that has not come to its end."""
    return "\n\n".join(["**The study has not come to its end.**", _progress(ranking), *why(ranking, experiment)])


def summary_note(ending: Ending, ranking: Ranking, experiment: str, model: str | None) -> str:
    """The summary of a finished study: the verdict first, since MLflow folds the rest away.

    model  the name of the registered best student
    """
    comparison, learned = ending.comparison, ending.learned
    compared = learned is not None and learned.compared
    lines = [verdict(comparison, learned.method) if learned and compared else "No method of the comparison has learned lambda."]
    lines += [_roomy(comparison_in_markdown(comparison))]
    if ending.repeated:
        lines += ["**Over the repeats:**", _roomy(repeats_in_markdown(ending.repeated))]
    if learned and learned.answer:
        lines.append(" ".join(what_it_came_to(learned.answer, comparison.goal)))
    if learned:
        lines += [f"**Learned lambda** ({whose(learned)}):", _roomy(_matrix(learned))]
    lines += why(ranking, experiment)
    if model:
        lines.append(
            f"The best student is the registered model [{model}]({model_link(model)}), alias `best`: "
            f'`mlflow.pytorch.load_model("models:/{model}@best")` takes images in [0, 1] and gives logits.'
        )
    lines.append(
        f"Artifacts: `outer_settings` has {comparison.goal.name} against each searched setting, `comparison.png` the methods "
        "with spread."
    )
    return "\n\n".join(lines)


def verdict(comparison: Comparison, method: str) -> str:
    """Says how the learned matrix does beside the best control, in a sentence."""
    learned = next(each for each in comparison.methods if each.name == method)
    test = with_spread(*spread(learned.all("test").values()))
    told = f"**Learned lambda ({method}): {comparison.goal.name} on test {test}**, {_seeds(learned)}"
    if comparison.control is None:
        return f"{told}; there is no control to compare it with."
    (row,) = (row for row in comparison.frame().to_dict("records") if row["method"] == method)
    difference, p = number(row["difference"], "+.4f"), p_value(row["p_value"])
    return f"{told}: {difference} to the best control, {comparison.control.name} (p {p})."


def trial_note(
    status: TrialStatus, records: Sequence[EpochRecord], experiment: str, run: str, layers: Sequence[Sequence[str]], goal: Goal
) -> str:
    """The description of a trial that has ended.

    goal    the task's metric
    layers  the names of the teacher's and the student's layers of its pairs
    """
    spec = status.spec
    lines = [f"**{spec.method}**, seed {spec.seed}: {status.state} {in_markdown(status.message)}".rstrip()]
    if records:
        metric, best, last = goal.on("val"), max(records, key=lambda r: goal.merit(r.metrics)), records[-1]
        lines.append(
            f"{capital(goal.name)} on `val`: {last.metrics[metric]:.4f} after epoch {last.epoch}, "
            f"at best {best.metrics[metric]:.4f} after epoch {best.epoch}."
        )
    if records and records[0].weights:
        lines.append(
            f"[The matrix over time]({run_link(experiment, run, 'lambda.html')}); pictures by epoch end the page of its "
            f"[metrics]({metrics_link(experiment, run)}). "
            f"Strongest at the end: {strongest(records[-1].weights, *layers, most=3)}."
        )
    return "\n\n".join([*lines, *_settings(status.spec)])


def running_trial_note(spec: TrialSpec, experiment: str, run: str, *, pairs: bool) -> str:
    """The description of a trial that has begun."""
    lines = [f"**{spec.method}**, seed {spec.seed}: running"]
    if pairs:
        lines.append(
            f"[The matrix so far]({metrics_link(experiment, run)}): section weights_matrix has every pair's weight over the "
            "epochs, and pictures by epoch end the page."
        )
    return "\n\n".join([*lines, *_settings(spec)])


def strongest(weights: Rows, teacher: Sequence[str], student: Sequence[str], *, most: int) -> str:
    """The pairs of the largest weights, in words."""
    pairs = strongest_pairs(weights, most)
    return ", ".join(f"{in_code(teacher[t])} → {in_code(student[s])} {weights[t][s]:.3f}" for t, s in pairs)


def _wanted(goal: Goal) -> str:
    """the highest accuracy"""
    return f"the {'highest' if goal.mode == 'max' else 'lowest'} {goal.name}"


def _roomy(table: str) -> str:
    """MLflow draws tables without a gap between columns."""
    return table.replace(" |", "&nbsp;&nbsp; |")


def _matrix(learned: Learned) -> str:
    teacher, student = learned.teacher_names, learned.student_names
    if len(teacher) * len(student) > _MOST_PAIRS:
        return strongest(learned.matrix, teacher, student, most=10)
    return matrix_in_markdown(teacher, student, learned.matrix)


def _trial(ranking: Ranking, experiment: str, status: TrialStatus) -> str:
    run = ranking.run_ids.get(status.spec.id)
    return f"[{status.spec.id}]({run_link(experiment, run)})" if run else status.spec.id


def _settings(spec: TrialSpec) -> list[str]:
    given = spec.settings
    told = [f"{in_code(name)} {f'{value:.4g}' if isinstance(value, float) else in_code(value)}" for name, value in given.items()]
    return [f"Its outer settings: {', '.join(told)}."] if told else []


def _progress(ranking: Ranking) -> str:
    told = [f"{count} {state}" for state, count in ranking.counts.items() if count]
    return f"Trials of study {ranking.study}: {', '.join(told) or 'none yet'}."


def _seeds(method: MethodScores) -> str:
    return f"{len(method.by_seed)} seed{'s' * (len(method.by_seed) != 1)}"

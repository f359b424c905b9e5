"""The findings of a study as one file that a person can send to a colleague: a page without a network, or Markdown.

Names of layers, methods and studies are untrusted: the page's template escapes all that it is given but the SVG made here,
and that of Markdown by `in_markdown` and `in_code`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from kd_hpo.config.augment import in_words
from kd_hpo.config.search import NoScheduler
from kd_hpo.config.task import Goal
from kd_hpo.config.trial import Network
from kd_hpo.errors import ConfigError
from kd_hpo.files import write_atomically
from kd_hpo.study.design.trials import compared_ids
from kd_hpo.study.report.comparison import caption, failures, not_worse_in_words
from kd_hpo.study.report.escaping import in_code, in_markdown
from kd_hpo.study.report.matrix import MatrixHistory, matrix_in_markdown, matrix_page, t_texts
from kd_hpo.study.report.plots import comparison_figure, curves_figure, search_figure, settings_figure, svg
from kd_hpo.study.report.repeats import HEADS, repeats_caption, repeats_rows
from kd_hpo.study.report.sentences import (
    headline,
    how_it_moved,
    how_well_known,
    matrix_in_words,
    missing,
    next_commands,
    of_test,
    of_trend,
    pairs_in_words,
    progress_of,
    whose,
)
from kd_hpo.study.report.words import capital, duration, number, p_value, with_spread
from kd_hpo.study.results.comparison import LEVEL
from kd_hpo.study.results.findings import Findings, read_findings
from kd_hpo.study.results.significance import FEWEST_TRIALS, Trend, trends_of_searches
from kd_hpo.study.results.standing import searched_points
from kd_hpo.study.store.folder import StudyFolder, TrialStatus
from kd_hpo.trial.result import LayerRecord, TrialResult

TEMPLATES = {".html": "report.html.jinja", ".md": "report.md.jinja"}


def write_report(folder: StudyFolder, path: Path, now: datetime) -> Findings:
    """Writes the findings of a study to one file.

    Raises ConfigError for a file of another kind, StudyError where there is no study or its folder is broken.
    """
    if path.suffix not in TEMPLATES:
        raise ConfigError(f"{path} ends in {path.suffix!r}; give a file that ends in {' or '.join(TEMPLATES)}")
    report = Report(read_findings(folder), now)
    environment = Environment(
        loader=PackageLoader("kd_hpo.study.report", "."),
        autoescape=path.suffix == ".html",
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"md": in_markdown, "code": in_code, "number": number, "p_value": p_value, "with_spread": with_spread}
    environment.filters |= {"said": of_test, "capital": capital, "not_worse": not_worse_in_words}
    write_atomically(path, environment.get_template(TEMPLATES[path.suffix]).render(report=report, findings=report.findings))
    return report.findings


@dataclass(frozen=True)
class Report:
    """The words, tables and pictures that the templates are given, beside the findings."""

    findings: Findings
    now: datetime

    @property
    def headline(self) -> list[str]:
        return headline(self.findings)

    @property
    def progress(self) -> str:
        return progress_of(self.findings.standing)

    @property
    def missing(self) -> list[str]:
        return missing(self.findings)

    @property
    def next_commands(self) -> list[tuple[str, str]]:
        return next_commands(self.findings)

    # ---- what was asked

    @property
    def goal(self) -> Goal:
        """The task's metric."""
        return self.findings.study.task.goal

    @property
    def facts(self) -> list[tuple[str, str]]:
        """The rows that say what was asked of the study, each a name and its words."""
        study = self.findings.study
        facts = [
            ("teacher", described(study.teacher.network)),
            ("student", described(study.student.network)),
            (
                "data",
                with_arguments(study.data.kind, study.data.model_dump(mode="json", exclude_defaults=True, exclude={"kind"})),
            ),
            ("splits", self._splits()),
            ("a trial", study.training.words + (f", augmented by {in_words(study.augment)}" if study.augment else "")),
            ("pairs", f"{study.pairs.loss.kind} loss, strength {study.pairs.strength:g}, weighting {self._weighting()}"),
            ("search", self._search()),
            ("comparison", f"{len(self.findings.standing.compare)} methods, {study.compare.seeds} seeds each"),
        ]
        if seconds := sum(status.duration_s for status in self.findings.folder.statuses()):
            facts.append(("time", f"{duration(seconds)}, all trials together"))
        if result := self._some_result():
            facts.append(("versions", ", ".join(f"{name} {version}" for name, version in result.versions.items())))
        return facts

    def _splits(self) -> str:
        if self.findings.comparison:
            return ", ".join(f"{name} {size} ({digest[:8]})" for name, (size, digest) in self.findings.comparison.splits.items())
        asked = self.findings.study.splits.model_dump(exclude={"seed"})
        return ", ".join(f"{name} {'the rest' if size is None else size}" for name, size in asked.items())

    def _weighting(self) -> str:
        weighting = self.findings.study.weighting
        return f"learned by {weighting.learning.direction.kind}" if weighting.learning else weighting.kind

    def _search(self) -> str:
        study = self.findings.study
        trials = sum(count.planned for count in self.findings.standing.search.values())
        if not trials:
            return "none: every method at the settings of the file"
        sampler, scheduler = study.search.sampler, study.search.scheduler
        stopping = "none is stopped early" if isinstance(scheduler, NoScheduler) else f"{scheduler.title} stops poor ones"
        methods = len(self.findings.standing.search)
        return f"{trials} trials for {methods} method{'s' * (methods > 1)} by Optuna ({sampler.title}); {stopping}"

    def _some_result(self) -> TrialResult | None:
        """Of any completed trial: what all share."""
        done = [status for status in self.findings.folder.statuses() if status.state == "completed"]
        return self.findings.folder.result(done[0].spec.id) if done else None

    @property
    def layers(self) -> list[tuple[str, str]]:
        """The teacher layer and student layer of each row, each with its shape; empty where one has more than the other."""
        learned = self.findings.learned
        if learned is None:
            return []
        rows = max(len(learned.teacher), len(learned.student))
        sides = [[shaped(layer) for layer in side] + [""] * (rows - len(side)) for side in (learned.teacher, learned.student)]
        return list(zip(*sides, strict=True))

    # ---- the teacher

    @property
    def teacher(self) -> list[str]:
        """The sentences on how good the teacher is, and beside what."""
        comparison, name = self.findings.comparison, self.findings.study.teacher.network.name
        if comparison is None:
            result = self._some_result()
            if result is None:
                return ["No trial has told yet."]
            return [f"{name}: {self.goal.name} on val {result.teacher_val_accuracy:.4f}."]
        lines = [f"{name}: {self.goal.name} on test {comparison.teacher['test']:.4f}, on val {comparison.teacher['val']:.4f}."]
        alone = next((method for method in comparison.methods if method.name == "ce" and method.by_seed), None)
        if alone is None:
            return [*lines, "The student was not trained alone, so how much there is to teach is not known (the method ce)."]
        scores = list(alone.all("test").values())
        gap = self.goal.worth(comparison.teacher["test"] - float(np.mean(scores)))
        behind = f"The student alone is {gap:.4f} behind it on test: that is what there is to teach."
        return [*lines, behind if gap > 0 else "The student alone is as good: there is nothing to teach."]

    # ---- the search

    @cached_property
    def searches(self) -> dict[str, list[dict[str, object]]]:
        """The trials of the searches by method, the method that learns lambda first."""
        found, learned = searched_points(self.findings.folder, self.goal), self.findings.learned
        return dict(sorted(found.items(), key=lambda item: learned is None or item[0] != learned.method))

    @property
    def search_rows(self) -> list[tuple[str, int, str, str]]:
        """A row a searched method: its name, its trials, the best one, and which settings mattered."""
        found = trends_of_searches(self.searches)
        return [
            (method, len(points), best_in_words(points, self.goal), settings_in_words(points, found[method], self.goal))
            for method, points in self.searches.items()
        ]

    @property
    def search_plot(self) -> Markup:
        return Markup(svg(search_figure(self.searches, self.goal)))

    @property
    def setting_plots(self) -> list[tuple[str, Markup]]:
        """Each searched method, and the plot of its metric against each outer setting."""
        return [(method, Markup(svg(settings_figure(points, self.goal)))) for method, points in self.searches.items()]

    # ---- lambda

    @property
    def pairs(self) -> list[tuple[str, str, str]]:
        return pairs_in_words(self.findings.learned) if self.findings.learned else []

    @property
    def whose(self) -> str:
        return whose(self.findings.learned) if self.findings.learned else ""

    @property
    def matrix_words(self) -> str:
        learned = self.findings.learned
        return f"{matrix_in_words(learned)} {how_it_moved(learned)}" if learned else ""

    @property
    def matrix_page(self) -> str:
        learned = self.findings.learned
        if learned is None:
            return ""
        history = MatrixHistory(learned.teacher_names, learned.student_names, learned.epochs, learned.course)
        return matrix_page(f"lambda: {self.whose}", history)

    @property
    def matrix_table(self) -> str:
        learned = self.findings.learned
        return matrix_in_markdown(learned.teacher_names, learned.student_names, learned.matrix) if learned else ""

    @property
    def known_words(self) -> str:
        return how_well_known(self.findings.learned) if self.findings.learned else ""

    @property
    def known_rows(self) -> list[tuple[str, list[str]]]:
        """A row a teacher layer, with the t-value of each pair; none where lambda did not move on evidence."""
        learned = self.findings.learned
        return list(zip(learned.teacher_names, t_texts(learned.t_values), strict=True)) if learned and learned.t_values else []

    @property
    def course(self) -> list[tuple[int, list[float]]]:
        """Some epochs, evenly spaced with the first and the last, and the weights of `pairs` after each."""
        learned = self.findings.learned
        if learned is None:
            return []
        places = sorted({round(i) for i in np.linspace(0, len(learned.epochs) - 1, 5)})
        at = [(learned.teacher_names.index(t), learned.student_names.index(s)) for t, s, _ in self.pairs]
        return [(learned.epochs[i], [learned.course[i][t][s] for t, s in at]) for i in places]

    # ---- the comparison

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The rows of the comparison's table, with the test of the method that learns lambda against each."""
        if self.findings.comparison is None:
            return []
        found = {test.control.name: test for test in self.findings.tests}
        rows: list[dict[Any, Any]] = self.findings.comparison.frame().to_dict("records")
        return [row | {"against": found.get(row["method"])} for row in rows]

    @property
    def failures(self) -> list[str]:
        return failures(self.findings.comparison) if self.findings.comparison else []

    @property
    def conditions(self) -> list[str]:
        """The sentences on what the numbers of the comparison depend on."""
        return caption(self.findings.comparison, table=False) if self.findings.comparison else []

    @property
    def repeats(self) -> list[tuple[str, ...]]:
        """The table over the study's repeats: its heads, then a row a method; empty where there is one repeat only."""
        repeated = self.findings.repeated
        return [HEADS, *repeats_rows(repeated)] if repeated else []

    @property
    def repeats_caption(self) -> str:
        return repeats_caption(self.findings.repeated) if self.findings.repeated else ""

    @property
    def level(self) -> float:
        return LEVEL

    @property
    def comparison_plot(self) -> Markup:
        assert self.findings.comparison is not None
        return Markup(svg(comparison_figure(self.findings.comparison)))

    @property
    def curves_plot(self) -> Markup | None:
        """The plot of the metric over the epochs; None where no trial of the comparison has come to its end."""
        curves = self._curves()
        return Markup(svg(curves_figure(curves, self.goal))) if curves else None

    def _curves(self) -> dict[str, list[list[float]]]:
        curves: dict[str, list[list[float]]] = {}
        for trial, (method, _) in compared_ids(self.findings.study).items():
            status: TrialStatus | None = self.findings.folder.status(trial)
            if status and status.state == "completed":
                scores = [record.metrics[self.goal.on("val")] for record in self.findings.folder.records(status.spec.id)]
                curves.setdefault(method, []).append(scores)
        return curves


# ---- words


def best_in_words(points: Sequence[Mapping[str, object]], goal: Goal) -> str:
    """Words the best trial of a search: 0.9123 (hetero-t003); none completed."""
    done = [point for point in points if point["state"] == "completed" and point["score"] is not None]
    best = max(done, key=lambda point: goal.worth(float(str(point["score"]))), default=None)
    return f"{best['score']:.4f} ({best['trial']})" if best else "none completed"


def settings_in_words(points: Sequence[Mapping[str, object]], found: Sequence[Trend], goal: Goal) -> str:
    clear = [trend for trend in found if trend.corrected < LEVEL]
    if len(points) < FEWEST_TRIALS:
        return "too few trials to say"
    return "; ".join(of_trend(trend, goal) for trend in clear) or "no clear trend"


def described(network: Network) -> str:
    return with_arguments(network.name, network.arguments) + (", pretrained" if network.pretrained else "")


def shaped(layer: LayerRecord) -> str:
    """Words a layer with its shape: conv2 (32 x 6 x 6)."""
    return f"{layer.name} ({' x '.join(map(str, layer.shape))})"


def with_arguments(name: str, arguments: Mapping[str, Any]) -> str:
    """Words a name with its arguments: plain_conv {channels: [16, 32], hidden: 64}."""
    written = yaml.safe_dump(dict(arguments), default_flow_style=True, sort_keys=False, width=float("inf")).strip()
    return f"{name} {written}" if arguments else name

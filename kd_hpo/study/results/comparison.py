"""Methods side by side: the numbers of a comparison, with what they depend on, as a data frame, CSV and JSON."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import mean, stdev
from typing import TYPE_CHECKING, Any, Literal

import pandas as pd
from scipy.stats import rankdata, ttest_1samp

from kd_hpo.config.arms import ARM, ARMS
from kd_hpo.config.json_source import require_keys_once
from kd_hpo.config.load import method_names
from kd_hpo.config.methods import title_of
from kd_hpo.config.study import Compare, Method, StudyConfig
from kd_hpo.config.task import Goal
from kd_hpo.config.trial import TrialConfig
from kd_hpo.errors import StudyError
from kd_hpo.files import write_atomically
from kd_hpo.study.design.trials import Searched, as_in_file, compared_ids, trial_config
from kd_hpo.study.store.folder import StudyFolder, TrialSpec

if TYPE_CHECKING:
    from kd_hpo.study.results.final_scores import SharedScores  # with torch, which a comparison that is read does without

COLUMNS = {
    "method": "its name in the study",
    "title": "how a person reads it",
    "seeds": "trials completed, one a seed",
    "failed": "trials that failed",
    "test": "{metric} on test after the last epoch, mean over seeds",
    "test_sd": "its sample standard deviation",
    "test_best": "{metric} on test at the best epoch by val",
    "test_best_sd": "its sample standard deviation",
    "val": "{metric} on val after the last epoch",
    "val_sd": "its sample standard deviation",
    "rank": "by test, the mean over seeds: 1 is the best; ties share a rank, a failed trial is last",
    "seconds": "duration of a trial",
    "steps": "inner steps of a trial",
    "difference": "test less that of the best control, the mean over the seeds that both have",
    "p_value": "of a paired t-test of this difference, two-sided, not corrected for the number of methods",
    "not_worse": "whether it is worse than the best control by no more than the margin: yes, no or unknown",
    "p_not_worse": "of a paired t-test, one-sided, that it is worse by the margin or more: yes where that is below .05",
    "tuning": "what was searched for it",
}
"""The columns of Comparison.frame, in order; where a number does not exist there is nan. They stand in
comparison.json too, {metric} being the task's own."""
NAN = float("nan")


@dataclass(frozen=True)
class Scores:
    """The scores of one completed trial: the task's metric, which is a share in [0, 1] where it is accuracy."""

    test: float
    test_best: float
    """At the best epoch by `val`."""
    val: float
    seconds: float


@dataclass(frozen=True)
class MethodScores:
    name: str
    title: str
    by_seed: Mapping[int, Scores]
    failures: tuple[str, ...]
    """What the failed trials said."""
    is_control: bool
    """Whether it is neither the method that the study searches nor one that learns lambda."""
    steps: int
    assisted: bool
    """Whether networks between teacher and student are trained before, beside these steps."""
    assistant_val: float
    """The metric on `val` of the last of them, which teaches the student; the mean over trials, nan where there is none."""
    tuning: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    """What was chosen for its trials, by dotted paths; empty where nothing was searched."""

    def all(self, name: str) -> dict[int, float]:
        """Gives the score of that name of every completed trial, by seed."""
        return {seed: getattr(scores, name) for seed, scores in self.by_seed.items()}


@dataclass(frozen=True)
class Comparison:
    study: str
    methods: tuple[MethodScores, ...]
    seeds: tuple[int, ...]
    epochs: int
    teacher: Mapping[str, float]
    """The task's metric of the study's own teacher on `val` and `test`, whatever assistants teach."""
    splits: Mapping[str, tuple[int, str]]
    """Images and digest."""
    goal: Goal
    """The task's metric, and which way of it is better."""
    margin: float = Compare().margin
    """How much of the metric a method may lose against the best control and still be called not worse."""

    @property
    def control(self) -> MethodScores | None:
        """The best control, by its mean on `test` after the last epoch; the first one where several tie."""
        controls = [method for method in self.methods if method.is_control and method.by_seed]
        return max(controls, key=lambda method: self.goal.worth(mean(method.all("test").values())), default=None)

    def frame(self) -> pd.DataFrame:
        """Gives the comparison as a data frame of a row a method; COLUMNS says what each column is."""
        ranks = mean_ranks([method.all("test") for method in self.methods], self.seeds, self.goal)
        rows = []
        for method, rank in zip(self.methods, ranks, strict=True):
            row: dict[str, object] = {"method": method.name, "title": method.title, "seeds": len(method.by_seed)}
            row |= {"failed": len(method.failures)}
            for name in ("test", "test_best", "val"):
                row[name], row[f"{name}_sd"] = spread(method.all(name).values())
            row |= {"rank": rank, "seconds": spread(method.all("seconds").values())[0], "steps": method.steps}
            against = self.control.all("test") if self.control and self.control is not method else {}
            row["difference"], row["p_value"] = paired(method.all("test"), against)
            row |= {"not_worse": NAN, "p_not_worse": NAN}
            if against:
                row["not_worse"], row["p_not_worse"] = not_worse(method.all("test"), against, self.margin, self.goal)
            rows.append(row | {"tuning": method.tuning})
        return pd.DataFrame(rows, columns=list(COLUMNS))

    def document(self) -> dict[str, Any]:
        """Gives the comparison as JSON: the rows of the frame with the scores of every seed; null for what does not exist."""
        rows = [
            {name: None if value != value else value for name, value in row.items()} for row in self.frame().to_dict("records")
        ]
        for row, method in zip(rows, self.methods, strict=True):
            row["by_seed"] = {seed: vars(scores) for seed, scores in method.by_seed.items()}
            row |= {"failures": method.failures, "settings": dict(method.settings)}
            if method.assisted:
                row["assistant_val"] = None if method.assistant_val != method.assistant_val else method.assistant_val
        about: dict[str, Any] = {
            "study": self.study,
            "seeds": self.seeds,
            "epochs": self.epochs,
            "splits": {name: {"images": size, "digest": digest} for name, (size, digest) in self.splits.items()},
            "teacher": dict(self.teacher),
            "best_control": self.control.name if self.control else None,
            "margin": self.margin,
            "columns": {name: words.format(metric=self.goal.name) for name, words in COLUMNS.items()},
        }
        return about | {"methods": rows}

    def write(self, folder: StudyFolder) -> None:
        write_atomically(folder.comparison("csv"), self.frame().to_csv(index=False))
        write_atomically(folder.comparison("json"), json.dumps(self.document(), indent=1))


def compared(study: StudyConfig, folder: StudyFolder, shared: "SharedScores", searched: Mapping[str, Searched]) -> Comparison:
    """Reads what the study's folder holds of its comparison, once all of its trials have ended and `test` has been opened."""
    return Comparison(
        study=study.name,
        methods=tuple(method_scores(study, folder, shared, searched, name) for name in method_names(study)),
        seeds=tuple(range(study.seed, study.seed + study.compare.seeds)),
        epochs=study.training.epochs,
        teacher=shared.teacher,
        splits=shared.splits,
        goal=study.task.goal,
        margin=study.compare.margin,
    )


def method_scores(
    study: StudyConfig, folder: StudyFolder, shared: "SharedScores", searched: Mapping[str, Searched], name: str
) -> MethodScores:
    statuses = [folder.status(trial) for trial, (method, _) in compared_ids(study).items() if method == name]
    done = [status for status in statuses if status and status.state == "completed"]
    by_seed = {}
    for status in done:
        tested = folder.test_scores(status.spec.id)
        if tested is not None:
            val = folder.records(status.spec.id)[-1].metrics[study.task.goal.on("val")]
            by_seed[status.spec.seed] = Scores(tested.last, tested.best, val, status.duration_s)
    spec = done[0].spec if done else TrialSpec(id=name, kind="compare", method=name, seed=study.seed)
    config = trial_config(study, spec)
    taught_by = [folder.result(status.spec.id).teacher_val_accuracy for status in done]
    return MethodScores(
        name=name,
        title=title_in_table(study, spec, config),
        by_seed=by_seed,
        failures=tuple(status.message for status in statuses if status and status.state == "failed"),
        is_control=is_control(study, spec),
        steps=shared.splits["train"][0] // config.training.batch_size * config.training.epochs,
        assisted=bool(config.assistants),
        assistant_val=spread(taught_by)[0] if config.assistants else NAN,
        tuning=tuning_of(study, searched, name),
        settings=spec.settings,
    )


def title_in_table(study: StudyConfig, spec: TrialSpec, config: TrialConfig) -> str:
    """Titles a method's row; where the search of lambda has come to a control, the row says that no lambda was learned."""
    name = spec.method
    own = any(isinstance(method, Method) and method.name == name for method in study.compare.methods)
    title = name if own else title_of(name, config)
    arm = ARMS[spec.settings[ARM]] if ARM in spec.settings else None
    return title if arm is None or arm.learns else f"{title}; come to {arm.title}"


def is_control(study: StudyConfig, spec: TrialSpec) -> bool:
    """Whether a method is one to compare learned lambda with; one whose search has arms is none, whichever it has come to."""
    learns = as_in_file(study, spec.method).weighting.learning is not None
    return not learns and not (study.search.trials and spec.method == study.search.method)


def read_comparison(study: StudyConfig, folder: StudyFolder) -> Comparison | None:
    """Reads the comparison as `write` left it; None where the study has not come so far. Raises StudyError for a broken file."""
    path = folder.comparison("json")
    if not path.is_file():
        return None
    try:
        require_keys_once(content := path.read_bytes())
        given = json.loads(content)
        return Comparison(
            study=given["study"],
            methods=tuple(_read_method(study, row) for row in given["methods"]),
            seeds=tuple(given["seeds"]),
            epochs=given["epochs"],
            teacher=given["teacher"],
            splits={name: (split["images"], split["digest"]) for name, split in given["splits"].items()},
            goal=study.task.goal,
            margin=given.get("margin", study.compare.margin),  # earlier versions wrote none
        )
    except (ValueError, KeyError, TypeError) as error:
        raise StudyError(f"{path} is broken ({error!r}); write it again with `{StudyFolder.of(study).resume}`") from error


def _read_method(study: StudyConfig, row: Mapping[str, Any]) -> MethodScores:
    assistant = row.get("assistant_val", NAN)
    return MethodScores(
        name=row["method"],
        title=row["title"],
        by_seed={int(seed): Scores(**scores) for seed, scores in row["by_seed"].items()},
        failures=tuple(row["failures"]),
        is_control=is_control(study, TrialSpec(id=row["method"], kind="compare", method=row["method"], seed=study.seed)),
        steps=row["steps"],
        assisted="assistant_val" in row,
        assistant_val=NAN if assistant is None else assistant,
        tuning=row["tuning"],
        settings=row.get("settings", {}),
    )


def tuning_of(study: StudyConfig, searched: Mapping[str, Searched], name: str) -> str:
    if name in searched:
        trials, settings = searched[name].trials, len(searched[name].space)
        raced = ", and a race of its best arms" if ARM in searched[name].space and study.search.race.seeds else ""
        return f"{trials} trial{'s' * (trials > 1)} of its own over {settings} setting{'s' * (settings > 1)}{raced}"
    if study.compare.tune:
        return "none, it has nothing to search"
    found = f"{study.search.trials} trial{'s' * (study.search.trials > 1)}"
    return f"the settings that {found} of {study.search.method} found" if study.search.trials else "none"


# ---- statistics

LEVEL = 0.05
"""Of significance."""


def spread(values: Iterable[float]) -> tuple[float, float]:
    """Gives mean and sample standard deviation; nan for what so few values do not have."""
    numbers = list(values)
    return mean(numbers) if numbers else NAN, stdev(numbers) if len(numbers) > 1 else NAN


def mean_ranks(methods: Sequence[Mapping[int, float]], seeds: Sequence[int], goal: Goal) -> list[float]:
    """Ranks methods by their score at each seed, and gives the mean rank of each: 1 is the best.

    Ties share the mean of their ranks, no score at a seed is last; nan for a method without any score.
    """
    ranks = [rankdata([-goal.worth(scores[seed]) if seed in scores else float("inf") for scores in methods]) for seed in seeds]
    return [float(mean(rank[i] for rank in ranks)) if scores else NAN for i, scores in enumerate(methods)]


def paired(scores: Mapping[int, float], others: Mapping[int, float]) -> tuple[float, float]:
    """Gives the mean difference at the seeds that both have, and the p-value of the paired t-test.

    nan for the difference without such a seed, for the p-value at fewer than two or where all differences are the same.
    """
    differences = differences_of(scores, others)
    if not differences:
        return NAN, NAN
    return mean(differences), NAN if _all_the_same(differences) else float(ttest_1samp(differences, 0).pvalue)


def not_worse(
    scores: Mapping[int, float], others: Mapping[int, float], margin: float, goal: Goal
) -> tuple[Literal["yes", "no", "unknown"], float]:
    """Tells whether a method loses no more than the margin to another, and the p-value of its losing that or more.

    A paired t-test over the seeds that both have, one-sided (non-inferiority: Wellek 2010, section 3.2). yes where p is below
    LEVEL; no where the test of the other side is, p above 1 - LEVEL; unknown between, at fewer than two seeds, and where all
    differences are the same: p is nan then.
    """
    differences = [goal.worth(difference) for difference in differences_of(scores, others)]
    if not differences or _all_the_same(differences):
        return "unknown", NAN
    p = float(ttest_1samp(differences, -margin, alternative="greater").pvalue)
    return "yes" if p < LEVEL else "no" if p > 1 - LEVEL else "unknown", p


def differences_of(scores: Mapping[int, float], others: Mapping[int, float]) -> list[float]:
    """Gives the differences of the scores at the seeds that both have, in their order."""
    return [scores[seed] - others[seed] for seed in sorted(scores.keys() & others.keys())]


def _all_the_same(differences: Sequence[float]) -> bool:
    """Far below one image: what is left is rounding."""
    return max(differences) - min(differences) < 1e-9

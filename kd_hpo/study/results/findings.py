"""The findings of a study, read from its folder, whether it is finished or not: what `show` prints and `report` writes."""

from dataclasses import dataclass
from typing import Any

from kd_hpo.config.study import StudyConfig
from kd_hpo.study.results.comparison import Comparison, read_comparison
from kd_hpo.study.results.repeats import Repeated, read_repeated
from kd_hpo.study.results.significance import Significance, against_controls
from kd_hpo.study.results.standing import Learned, Standing, learned_weights, standing
from kd_hpo.study.store.folder import StudyFolder


@dataclass(frozen=True)
class Findings:
    study: StudyConfig
    folder: StudyFolder
    standing: Standing
    comparison: Comparison | None
    learned: Learned | None
    repeated: Repeated | None = None
    """Over the study's repeats, once each has come to its end; None where there is one only."""

    @property
    def finished(self) -> bool:
        return self.standing.state == "finished"

    @property
    def tests(self) -> list[Significance]:
        """The tests of the method that has learned the matrix against each control; none where either is missing."""
        if self.comparison is None or self.learned is None:
            return []
        compared = [method.name for method in self.comparison.methods if method.by_seed]
        return against_controls(self.comparison, self.learned.method) if self.learned.method in compared else []

    def document(self) -> dict[str, Any]:
        """Gives the findings as plain data, for --json."""
        learned = self.learned
        return {
            "study": self.study.name,
            "folder": self.folder.root,
            "state": self.standing.state,
            "trials": {"ended": self.standing.ended, "planned": self.standing.planned, "best_val": self.standing.best},
            "search": self.standing.search,
            "race": self.standing.race,
            "compare": self.standing.compare,
            "comparison": self.comparison and self.comparison.document(),
            "repeated": self.repeated and self.repeated.document(),
            "learned": learned
            and {
                "method": learned.method,
                "trials": learned.trials,
                "teacher_layers": learned.teacher,
                "student_layers": learned.student,
                "weights": learned.matrix,
                "answer": learned.answer and {n: None if v != v else v for n, v in vars(learned.answer).items()},
            },
        }


def read_findings(folder: StudyFolder) -> Findings:
    """Reads the findings of a study. Raises StudyError where there is no study, or where a file of it is broken."""
    study = folder.read_settings()
    stands, comparison = standing(study, folder), read_comparison(study, folder)
    return Findings(study, folder, stands, comparison, learned_weights(study, folder), read_repeated(study))

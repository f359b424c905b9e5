"""The independent repeats of a study: each has a search, a teacher, a split and seeds of its own, and a folder of its own."""

from kd_hpo.config.read import replace_paths
from kd_hpo.config.study import StudyConfig

APART = 10_000
"""Between the seeds of one repeat's trials and the next one's: a comparison has so many at most."""


def repeats_of(study: StudyConfig) -> list[StudyConfig]:
    """The study itself, which is its own first repeat, and after it as many studies as `search.repeats` asks for more.

    The second one of `name` is `name-r2`. Raises ConfigError where such a name would be too long.
    """
    return [study, *(_repeat(study, number) for number in range(2, study.search.repeats + 1))]


def _repeat(study: StudyConfig, number: int) -> StudyConfig:
    more = number - 1
    own = {
        "name": f"{study.name}-r{number}",
        "seed": study.seed + APART * more,
        "search.seed": study.search.seed + more,
        "search.repeats": 1,
        "splits.seed": study.splits.seed + more,
        "teacher.seed": study.teacher.seed + more,
    }
    return replace_paths(study, own)

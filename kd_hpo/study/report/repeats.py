"""The table of a study's repeats in words, for a terminal and for the report."""

from kd_hpo.study.report.comparison import not_worse_in_words
from kd_hpo.study.report.words import number, p_value
from kd_hpo.study.results.repeats import Repeated

HEADS = ("method", "repeats", "seeds", "test", "between", "within", "difference", "p", "not worse")


def repeats_rows(repeated: Repeated) -> list[tuple[str, ...]]:
    """Makes the rows of the table over repeats, one a method, in words, below HEADS."""
    rows = []
    for row in repeated.frame().to_dict("records"):
        numbers = [number(row[name], ".4f") for name in ("test", "between", "within")]
        difference = "control" if row["method"] == repeated.control else number(row["difference"], "+.4f")
        words = (difference, p_value(row["p_value"]), not_worse_in_words(row))
        rows.append((row["method"], str(row["repeats"]), str(row["seeds"]), *numbers, *words))
    return rows


def repeats_caption(repeated: Repeated) -> str:
    """Says what the numbers of the table over repeats depend on."""
    studies, margin = [each.study for each in repeated.comparisons], repeated.comparisons[0].margin
    return (
        f"Over {len(studies)} repeats, each with its own search, teacher and split ({', '.join(studies)}). "
        "test: mean of the repeats' means; between: their standard deviation; within: that over the seeds of a repeat; p: "
        f"paired t-test over the repeats' means, degrees of freedom {len(studies) - 1}; not worse: than the best control by "
        f"{margin:g} or more, one-sided, by the same means."
    )


def repeats_in_markdown(repeated: Repeated) -> str:
    """Makes the table over the repeats, and under it what its numbers depend on."""
    rows = [f"| {' | '.join(row)} |" for row in (HEADS, ("---",) * len(HEADS), *repeats_rows(repeated))]
    return "\n".join([*rows, "", repeats_caption(repeated)])

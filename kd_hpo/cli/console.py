"""What every command shares: the two consoles, common options, what a study is called on a command line."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter
from rich.console import Console

if TYPE_CHECKING:
    from kd_hpo.config.study import StudyConfig

out, err = Console(highlight=False, soft_wrap=True), Console(stderr=True, highlight=False, soft_wrap=True)

Overrides = Annotated[tuple[str, ...], Parameter(name="--set", negative=())]
Runs = Annotated[Path, Parameter(env_var="KD_HPO_RUNS")]


def runs_option(study: "StudyConfig") -> str:
    return "" if study.runs == Path("runs").absolute() else f" --runs {study.runs}"


def study_name(study: str) -> str:
    """A study's name cannot leave the runs folder. Raises ConfigError for one that could."""
    from pydantic import TypeAdapter, ValidationError

    from kd_hpo.config.study import Name
    from kd_hpo.errors import ConfigError

    try:
        return str(TypeAdapter(Name).validate_python(study))
    except ValidationError as error:
        raise ConfigError(f"{study!r} is no name of a study; names are letters, digits, '.', '_' and '-', 64 at most") from error

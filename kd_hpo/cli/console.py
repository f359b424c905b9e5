"""What every command shares: the two consoles, common options, its result, what a study is called on a command line."""

import shlex
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Group, Parameter
from cyclopts.validators import MutuallyExclusive
from rich.console import Console, RenderableType

if TYPE_CHECKING:
    from cyclopts.completion import CompletionContext

    from kd_hpo.config.study import StudyConfig

# No path and no name of a user's means anything to these: `[b]` and `:x:` are printed as they stand.
out, err = (Console(stderr=each, markup=False, emoji=False, highlight=False, soft_wrap=True) for each in (False, True))

_OUTPUT = Group("Output", sort_key=1)
_HOW_MUCH = Group(validator=MutuallyExclusive(), show=False)  # type: ignore[no-untyped-call]


@dataclass(frozen=True)
class Result:
    """What a command has found out or made; `main` prints it."""

    document: object
    """What --json prints: plain data, pydantic's models and data classes of these; null for a number that is none."""
    shown: tuple[RenderableType, ...]
    """What a person reads."""
    beside: tuple[RenderableType, ...] = ()
    """What else a person may want to know, such as what to do next; --quiet leaves it out."""


@Parameter(name="*")
@dataclass(frozen=True)
class Output:
    """What a command prints, and where."""

    json: Annotated[bool, Parameter(negative=(), group=_OUTPUT, show_default=False)] = False
    """Print the result as one JSON document, and all else on standard error."""
    quiet: Annotated[bool, Parameter(name=["--quiet", "-q"], negative=(), group=(_OUTPUT, _HOW_MUCH), show_default=False)] = False
    """Print the result only."""
    verbose: Annotated[bool, Parameter(name=["--verbose", "-v"], negative=(), group=(_OUTPUT, _HOW_MUCH), show_default=False)] = (
        False
    )
    """Print each epoch of each trial, what libraries warn of, and where an error was raised."""

    @property
    def progress(self) -> Console:
        """The console for what is told while the work goes on."""
        return Console(quiet=True) if self.quiet else err if self.json else out

    @property
    def options(self) -> tuple[str, ...]:
        """The options as a command line has them."""
        return tuple(f"--{name}" for name in ("json", "quiet", "verbose") if getattr(self, name))

    @contextmanager
    def kept_apart(self) -> Iterator[None]:
        """Sends to standard error, with --json, whatever a library or a user's own code prints."""
        with warnings.catch_warnings(), redirect_stdout(sys.stderr if self.json else sys.stdout):
            if self.quiet or self.verbose:
                warnings.simplefilter("ignore" if self.quiet else "default")
            yield

    def print(self, result: Result) -> None:
        if self.json:
            from pydantic_core import to_json

            print(to_json(result.document, indent=2, inf_nan_mode="null").decode())
        elif result.shown:
            out.print(*result.shown, sep="\n")
        if result.beside:
            self.progress.print(*result.beside, sep="\n")


AS_USUAL = Output()


def _studies(context: "CompletionContext") -> list[str]:
    return sorted(path.parent.name for path in context["--runs"].value.glob("*/study.yaml"))


Overrides = Annotated[tuple[str, ...], Parameter(name="--set", negative=())]
Address = Annotated[
    str | None, Parameter(help="Ray's: local, auto, host:port or ray://host:port; resources.address if not given.")
]
Runs = Annotated[Path, Parameter(env_var="KD_HPO_RUNS")]
StudyName = Annotated[str, Parameter(completer=_studies)]


def runs_option(study: "StudyConfig") -> str:
    return "" if study.runs == Path("runs").absolute() else f" --runs {shlex.quote(str(study.runs))}"


def study_name(study: str) -> str:
    """Checks that a study's name cannot leave the runs folder, and gives it. Raises ConfigError for one that could."""
    from pydantic import TypeAdapter, ValidationError

    from kd_hpo.config.study import Name
    from kd_hpo.errors import ConfigError

    try:
        return str(TypeAdapter(Name).validate_python(study))
    except ValidationError as error:
        raise ConfigError(f"{study!r} is no name of a study; names are letters, digits, '.', '_' and '-', 64 at most") from error

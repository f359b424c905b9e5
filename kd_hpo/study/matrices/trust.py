"""Which folders and files an exported file may have opened: whoever applies a stranger's names them, or trusts it."""

from collections.abc import Collection, Sequence
from pathlib import Path
from shlex import quote

from kd_hpo.config.load import places_read
from kd_hpo.config.trial import TrialConfig
from kd_hpo.errors import ExportError, KdHpoError
from kd_hpo.study.store.folder import StudyFolder

Place = Path | str
"""On disk, or in storage: s3://BUCKET/KEY."""


def own_places(runs: Path, study: str) -> set[Place]:
    """The places that a study of that name in `runs` reads, which its user has named; none where there is no such study."""
    try:
        return set(places_read(StudyFolder(runs / study).read_settings()).values())
    except KdHpoError:
        return set()


def refuse_places(config: TrialConfig, overrides: Sequence[str], trusted: Collection[Place]) -> None:
    """Checks that a file's trial reads below the working folder only, but for places that are trusted or of an override.

    Raises ExportError for the first other one: to open it may hang, or tell whoever sent the file that it is there.
    """
    given = [override.partition("=")[0].strip() for override in overrides]
    here = Path.cwd().resolve()
    for dotted, place in places_read(config).items():
        if place in trusted or any(dotted == path or dotted.startswith(f"{path}.") for path in given):
            continue
        if isinstance(place, Path) and place.resolve().is_relative_to(here):
            continue
        raise ExportError(
            f"the export names a place to read outside the working folder, {dotted} = {place}, and a file may not have any place "
            f"opened by itself. If you trust it, name it yourself: --set {quote(f'{dotted}={place}')}, or give --trust-paths"
        )

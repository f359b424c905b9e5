"""Builds the API reference from the docstrings: python studies/reference/build.py FOLDER. Whatever pdoc warns of is an error."""

import pkgutil
import sys
import warnings
from pathlib import Path

import pdoc
import pdoc.render

import kd_hpo


def build(folder: Path) -> None:
    for name in kd_hpo.__all__:
        getattr(kd_hpo, name)  # pdoc looks at what a module holds, and these come when they are first used
    pdoc.render.configure(template_directory=Path(__file__).parent)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        # By name, since `__all__` has the public names alone; without the pages of the dashboard, which nobody imports.
        rooms = [room.name for room in pkgutil.iter_modules(kd_hpo.__path__, "kd_hpo.") if room.name != "kd_hpo.dashboards"]
        pdoc.pdoc("kd_hpo", *rooms, output_directory=folder)
    if mistakes := [str(warning.message) for warning in told if "pdoc" in Path(warning.filename).parts]:
        raise SystemExit("\n".join(mistakes))


if __name__ == "__main__":
    build(Path(sys.argv[1]))

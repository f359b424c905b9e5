"""The package's floors: imports run downhill, heavy ones stay where they belong, modules stay short."""

import ast
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import kd_hpo
from kd_hpo.study.environment import prepare_environment

prepare_environment()  # before anything imports Ray
ROOT = Path(kd_hpo.__file__).parent
MODULES = {
    ".".join(("kd_hpo", *path.relative_to(ROOT).with_suffix("").parts)): path
    for folder in (ROOT, ROOT / "dashboards")  # a link, which `rglob` does not follow
    for path in sorted(folder.rglob("*.py"))
}

BELOW: dict[str, set[str]] = {"errors": set(), "files": {"errors"}, "callables": {"errors"}}
BELOW["config"] = {"errors", "files"}
BELOW["core"] = {"errors", "files", "callables"}
BELOW["nets"] = BELOW["core"] | {"core"}
BELOW["data"] = BELOW["nets"] | {"nets"}
BELOW["trial"] = BELOW["data"] | {"data", "config"}
BELOW["study"] = BELOW["trial"] | {"trial"}
BELOW["distiller"] = BELOW["study"] | {"study"}  # it reads exports
BELOW["cli"] = BELOW["dashboards"] = BELOW["study"] | {"study"}
BELOW["testing"] = BELOW["study"] | {"study"}  # for authors of parts: nothing of kd_hpo imports it
"""What each floor may import, beside itself."""

ROOMS = ("store", "design", "results", "matrices", "report", "tracking", "cluster", "search", "run")
"""Of the study, each of which may import those before it."""

ONLY_IN = {
    "ray": {"study.cluster", "study.search", "study.run"},
    "mlflow": {"study.tracking", "dashboards"},
    "optuna": {"study.search", "dashboards"},
    "streamlit": {"dashboards"},
}
"""Where a framework may be imported, and is."""


def imports_of(path: Path) -> Iterator[str]:
    """Every module that the file imports, also inside functions."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module, f"{path}:{node.lineno} is a relative import"
            yield node.module
            yield from (f"{node.module}.{name.name}" for name in node.names)


PUBLIC_WITH_UNDERSCORE = {
    "_version": "of torch's tensors, counts what is written into them; documented under autograd",
    "_replace": "of named tuples",
    "_fields": "of named tuples",
}
TORCH_HAS_NO_OTHER = {"torch.utils._pytree", "torch._dynamo.exc", "torch._inductor.exc"}


def private_names(code: str) -> Iterator[str]:
    """What the code imports or reads of others although it begins with an underscore; its own begin with self or cls."""
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names if is_private(name.name))
        elif isinstance(node, ast.ImportFrom):
            where = str(node.module)
            yield from (f"{where}.{name.name}" for name in node.names if is_private(f"{where}.{name.name}"))
        elif (
            isinstance(node, ast.Attribute)
            and is_private(node.attr)
            and ast.unparse(node.value).split(".")[0] not in ("self", "cls")
        ):
            yield ast.unparse(node)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("getattr", "patch", "patch.object")):
            words = [each.value for each in node.args if isinstance(each, ast.Constant) and isinstance(each.value, str)]
            yield from (word for word in words if is_private(word))


def is_private(dotted: str) -> bool:
    return any(part.startswith("_") and not part.startswith("__") for part in dotted.split("."))


@pytest.mark.parametrize("module", MODULES)
def test_nothing_private_of_a_library_is_used(module: str) -> None:
    found = [name.rpartition(".") for name in private_names(MODULES[module].read_text())]
    assert not [name for name in found if name[2] not in PUBLIC_WITH_UNDERSCORE and name[0] not in TORCH_HAS_NO_OTHER]


@pytest.mark.parametrize(
    "code",
    [
        "from ray._private import services",
        "import optuna._transform",
        "from optuna.samplers import _cmaes",
        "run.data._metric_objs",
        "optuna.study._optimize",
        "getattr(run, '_metric_objs')",
        "patch('ray._private.services.ConsolePopen')",
    ],
)
def test_the_search_for_private_names_finds_what_it_should(code: str) -> None:
    assert list(private_names(code))
    assert not list(private_names("self._x; cls._x.y; a.__name__; from a import b; import a.b"))


def floor_of(module: str) -> str:
    return module.split(".")[1]


def room_of(module: str) -> str:
    """study.search of kd_hpo.study.search.space, and core of kd_hpo.core.simplex."""
    parts = module.split(".")
    return ".".join(parts[1 : 3 if parts[1] == "study" and len(parts) > 3 else 2])


@pytest.mark.parametrize("module", [name for name in MODULES if name != "kd_hpo.__init__"])
def test_imports_run_downhill(module: str) -> None:
    floor = floor_of(module)
    ours = {name for name in imports_of(MODULES[module]) if name.startswith("kd_hpo.")}
    uphill = {name for name in ours if floor_of(name) not in BELOW[floor] | {floor}}
    assert not uphill, f"{module} is on the floor {floor!r} and imports {sorted(uphill)}; it may import {sorted(BELOW[floor])}"


@pytest.mark.parametrize("package", ONLY_IN)
def test_framework_is_imported_in_its_rooms_only(package: str) -> None:
    users = {room_of(name) for name, path in MODULES.items() if package in {i.split(".")[0] for i in imports_of(path)}}
    assert users == ONLY_IN[package]


@pytest.mark.parametrize("module", [name for name in MODULES if name.startswith("kd_hpo.study.") and room_of(name)[6:] in ROOMS])
def test_rooms_of_the_study_are_in_order(module: str) -> None:
    ours = {room_of(name)[6:] for name in imports_of(MODULES[module]) if name.startswith("kd_hpo.study.")} & set(ROOMS)
    later = ours - set(ROOMS[: ROOMS.index(room_of(module)[6:]) + 1])
    assert not later, f"{module} imports from {sorted(later)}, which come after its own room"


def test_no_files_import_each_other_in_a_circle() -> None:
    """Imports inside functions count too: they hide a circle, and do not open it."""
    graph = {module: {name for name in imports_of(path) if name in MODULES} - {module} for module, path in MODULES.items()}
    del graph["kd_hpo.__init__"]  # its names lead everywhere
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


KNOW_THE_TASK = ("kd_hpo.config.task", "kd_hpo.core.tasks")
KEPT_NAMES = {
    "val_accuracy": "of exports on disk",
    "teacher_val_accuracy": "of results on disk",
    "accuracies": "of kd_hpo.testing.tracker's StoredRun, which authors of trackers make",
}
"""They mean the task's metric, whichever it is; another name would break what others have kept or written."""


def words_of(path: Path) -> Iterator[tuple[int, str]]:
    """Names and strings in the code, with their lines, without docstrings and comments."""
    tree = ast.parse(path.read_text())
    said = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if id(node) not in said:
            yield from ((getattr(node, "lineno", 0), text) for _, text in ast.iter_fields(node) if isinstance(text, str))


@pytest.mark.parametrize("module", [name for name in MODULES if name not in KNOW_THE_TASK])
def test_only_the_task_knows_its_metric_and_its_loss(module: str) -> None:
    of_the_task = re.compile("accurac|cross.?entropy", re.IGNORECASE)
    found = [(line, word) for line, word in words_of(MODULES[module]) if word not in KEPT_NAMES and of_the_task.search(word)]
    assert not found, f"{module} speaks of classification's metric or loss: {found}; ask the task's goal (kd_hpo.config.task)"


def test_every_floor_is_known() -> None:
    assert {floor_of(name) for name in MODULES} - {"__init__"} == set(BELOW)


@pytest.mark.parametrize("module", MODULES)
def test_module_is_short(module: str) -> None:
    assert len(MODULES[module].read_text().splitlines()) <= 350


LEANS = re.compile(
    "(Of|By|With|Without|For|As|From|In|Into|On|To|Where|Beside|Around|Again|Before|After|None|Not|Raises|Those|That|They|Its) "
)
"""How a phrase begins that is read with the name or with what stands before it; `Whether ...` of what is true or false may."""


def public_docstrings(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """The docstrings of a module and of its public classes, functions and methods, with their lines."""
    todo: list[ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef] = [tree]
    while todo:
        node = todo.pop()
        if said := ast.get_docstring(node):
            yield getattr(node, "lineno", 1), said
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            defined = (each for each in node.body if isinstance(each, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef))
            todo.extend(each for each in defined if not each.name.startswith("_"))


def is_sentence(first_line: str) -> bool:
    """Whether a line can be read by itself, as far as signs tell: a capital, digit or code begins it, a stop or colon ends it."""
    return re.match("[A-Z0-9`]", first_line) is not None and first_line[-1] in ".:" and LEANS.match(first_line) is None


@pytest.mark.parametrize("module", MODULES)
def test_docstring_begins_with_a_sentence(module: str) -> None:
    said = public_docstrings(ast.parse(MODULES[module].read_text()))
    found = [(line, text.splitlines()[0]) for line, text in said if not is_sentence(text.splitlines()[0])]
    assert not found, f"{module} has docstrings whose first line is no sentence that can be read by itself: {found}"


@pytest.mark.parametrize(
    "first_line",
    [
        "Of the trial: its name.",
        "(T, S) as it stood then.",
        "nan where there is none.",
        "The sum",
        "Raises DataError.",
        "The a, and",
    ],
)
def test_a_fragment_is_told(first_line: str) -> None:
    assert not is_sentence(first_line)
    assert is_sentence("Whether it learns.") and is_sentence("`a` of B, where it is one:")


@pytest.mark.parametrize(
    "code",
    [
        "import kd_hpo",
        "from kd_hpo.cli.main import app; app(['--help'], result_action='return_value')",
        "from kd_hpo.cli.main import app; app(['run', '--help'], result_action='return_value')",
    ],
    ids=["import", "--help", "run --help"],
)
def test_nothing_heavy_is_loaded_before_it_is_needed(code: str) -> None:
    tell = "import json, sys; print(); print(json.dumps(sorted(sys.modules)))"
    told = subprocess.run([sys.executable, "-c", f"{code}\n{tell}"], capture_output=True, text=True, check=True)
    loaded = set(json.loads(told.stdout.splitlines()[-1]))
    assert "kd_hpo" in loaded
    assert not loaded & {"torch", "ray", "mlflow", "optuna", "sklearn", "pandas", "matplotlib"}


def test_public_names_lead_to_their_modules() -> None:
    for name in kd_hpo.__all__:
        assert getattr(kd_hpo, name).__name__ == name
    with pytest.raises(AttributeError, match=r"no 'run_trail'; it has .*run_trial"):
        _ = kd_hpo.run_trail


def test_weightings_say_themselves_whether_they_learn() -> None:
    """Nobody asks for the kind of a weighting but the one who builds it."""
    wrong = [
        name
        for name, path in MODULES.items()
        if re.search(r"isinstance\([^)]*(LearnedWeights|OwnWeighting|NoPairs)", path.read_text())
        and name != "kd_hpo.trial.weighting"
    ]
    assert not wrong

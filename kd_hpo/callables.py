"""Code of a user's own: what `package.module:callable` names, and the files that it is made of."""

import ast
import hashlib
import importlib
import importlib.util
import re
import sys
import sysconfig
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any

from kd_hpo.errors import ConfigError

_REFERENCE = re.compile(r"([A-Za-z_]\w*(?:\.\w+)*):[A-Za-z_]\w*")
_OWN = "kd_hpo_own_"
"""Before the name of a module of the current folder whose own name is that of another one, as of Python's `test`."""


def import_callable(reference: str) -> Callable[..., Any]:
    """Imports what `package.module:callable` names, from the current folder or else from where Python finds its modules.

    The current folder comes last for all that is imported otherwise: a `profile.py` in it hides none of Python's modules.
    Raises ConfigError if there is no such module or no such callable in it; an error inside the module goes on as it is.
    """
    module_name, _, name = reference.partition(":")
    if not all(part.isidentifier() for part in (*module_name.split("."), name)):
        raise ConfigError(f"{reference!r} names no callable; write package.module:callable")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)
    try:
        module = _import(module_name, here)
    except ModuleNotFoundError as error:
        missing = error.name.removeprefix(_OWN) if error.name else None
        if missing is None or not (module_name == missing or module_name.startswith(f"{missing}.")):
            raise
        raise ConfigError(
            f"{reference!r}: there is no module {missing!r} in {here} or where Python looks; "
            "start kd-hpo from the folder that holds it, or install it"
        ) from error
    found = getattr(module, name, None)
    if not callable(found):
        callables = sorted(n for n, value in vars(module).items() if callable(value) and not n.startswith("_"))
        raise ConfigError(f"{reference!r}: {module_name} has no callable {name!r}; it has {', '.join(callables) or 'none'}")
    return found  # type: ignore[no-any-return]


def modules_named(settings: object) -> list[str]:
    """The module of every `package.module:callable` in plain data, such as settings as JSON has them."""
    found = (_REFERENCE.fullmatch(text) for text in _texts(settings))
    return sorted({match[1] for match in found if match and _top(match[1]) != "kd_hpo"})


def _texts(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _texts(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _texts(item)


def own_code(modules: Iterable[str]) -> dict[str, Path]:
    """The files of these modules and of all that they import, by module name, as far as they are a user's own.

    They are neither installed nor Python's. Nothing is imported; what is imported by a name that is put together in running is
    not seen.
    """
    importlib.invalidate_caches()
    found: dict[str, Path] = {}
    todo, seen = [(name, True) for name in modules], set[str]()
    while todo:
        name, first = todo.pop()
        if name in seen:
            continue
        seen.add(name)
        spec = _find(name, here_first=first)
        if spec is None or not _is_own(spec):
            continue
        if parent := name.rpartition(".")[0]:
            todo.append((parent, first))
        if spec.origin is not None:
            found[name] = Path(spec.origin)
            todo += [(each, first and _top(each) == _top(name)) for each in _imported(name, spec)]
    return dict(sorted(found.items()))


def code_digest(modules: Iterable[str]) -> str:
    """The sha256 of the text of `own_code`, in hex."""
    told = [part for name, file in own_code(modules).items() for part in (name.encode(), file.read_bytes())]
    return hashlib.sha256(b"\0".join(told)).hexdigest()


def _import(name: str, here: str) -> ModuleType:
    top, _, below = name.partition(".")
    own, found = PathFinder.find_spec(top, [here]), _python_finds(top)
    if own is None or own.origin is None or found is None or own.origin == found.origin:
        return importlib.import_module(name)
    alias = f"{_OWN}{top}"
    if getattr(sys.modules.get(alias), "__file__", None) != own.origin:
        for stale in [each for each in sys.modules if each == alias or each.startswith(f"{alias}.")]:
            del sys.modules[stale]
        spec = importlib.util.spec_from_file_location(
            alias, own.origin, submodule_search_locations=own.submodule_search_locations
        )
        assert spec is not None and spec.loader is not None
        module = sys.modules[alias] = importlib.util.module_from_spec(spec)
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[alias]
            raise
    return importlib.import_module(f"{alias}.{below}" if below else alias)


def _python_finds(top: str) -> ModuleSpec | None:
    """What an import of the name gives."""
    if top in sys.modules:
        return sys.modules[top].__spec__
    return importlib.util.find_spec(top) if top in sys.builtin_module_names else PathFinder.find_spec(top)


def _top(name: str) -> str:
    return name.partition(".")[0]


def _elsewhere(top: str, here: str) -> ModuleSpec | None:
    """Where Python finds a module without the current folder."""
    if top in sys.builtin_module_names:
        return importlib.util.find_spec(top)
    return PathFinder.find_spec(top, [path for path in sys.path if path not in ("", here)])


def _find(name: str, *, here_first: bool) -> ModuleSpec | None:
    """As an import of that name does, but without one."""
    parent, _, _ = name.rpartition(".")
    if parent:
        above = _find(parent, here_first=here_first)
        places = above.submodule_search_locations if above else None
        return PathFinder.find_spec(name, list(places)) if places is not None else None
    loaded = getattr(sys.modules.get(name), "__spec__", None)
    if name.startswith(_OWN):
        return loaded
    here = str(Path.cwd())
    own, other = PathFinder.find_spec(name, [here]), _elsewhere(name, here) or loaded
    if own is not None and own.origin is None:  # a folder alone, which comes after all modules
        own, other = None, other or own
    return (own or other) if here_first else (other or own)


def _is_own(spec: ModuleSpec) -> bool:
    if _top(spec.name) == "kd_hpo":
        return False
    places = [spec.origin] if spec.origin else list(spec.submodule_search_locations or ())
    installed = {sysconfig.get_path(kind) for kind in ("stdlib", "platstdlib", "purelib", "platlib")}
    paths = [Path(place) for place in places if place]
    return bool(paths) and all(
        path.exists() and (not spec.origin or path.suffix == ".py") and not any(path.is_relative_to(i) for i in installed)
        for path in paths
    )


def _imported(name: str, spec: ModuleSpec) -> Iterator[str]:
    """Every name that may be that of a module which the file of `name` imports."""
    assert spec.origin is not None
    try:
        tree = ast.parse(Path(spec.origin).read_bytes())
    except (SyntaxError, ValueError):  # told when it is imported
        return
    package = name if spec.submodule_search_locations is not None else name.rpartition(".")[0]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = ".".join(package.split(".")[: len(package.split(".")) - node.level + 1]) if node.level else ""
            module = ".".join(part for part in (above, node.module) if part)
            yield module
            yield from (f"{module}.{alias.name}" for alias in node.names)

"""`package.module:callable` of a user's own."""

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kd_hpo.errors import ConfigError


def import_callable(reference: str) -> Callable[..., Any]:
    """What `package.module:callable` names, found from the current folder or where Python finds its modules.

    Raises ConfigError if there is no such module or no such callable in it; an error inside the module goes on as it is.
    """
    module_name, _, name = reference.partition(":")
    if not all(part.isidentifier() for part in (*module_name.split("."), name)):
        raise ConfigError(f"{reference!r} names no callable; write package.module:callable")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not (module_name == error.name or module_name.startswith(f"{error.name}.")):
            raise
        raise ConfigError(
            f"{reference!r}: there is no module {error.name!r} in {here} or where Python looks; "
            "start kd-hpo from the folder that holds it, or install it"
        ) from error
    found = getattr(module, name, None)
    if not callable(found):
        callables = sorted(n for n, value in vars(module).items() if callable(value) and not n.startswith("_"))
        raise ConfigError(f"{reference!r}: {module_name} has no callable {name!r}; it has {', '.join(callables) or 'none'}")
    return found  # type: ignore[no-any-return]

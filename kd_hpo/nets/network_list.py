"""The networks whose names match a pattern."""

import difflib
from fnmatch import fnmatchcase

from kd_hpo.errors import ConfigError
from kd_hpo.nets.zoo import network_names


def networks_like(pattern: str) -> dict[str, list[str]]:
    """The names of networks as a study gives them, by where they come from.

    pattern  a part of a name, or a glob over it, or over its end
    Raises ConfigError if there is none.
    """
    glob = pattern if any(sign in pattern for sign in "*?[") else f"*{pattern}*"
    names = network_names()
    found = {source: [name for name in of if _matches(name, glob)] for source, of in names.items()}
    if any(found.values()):
        return {source: matching for source, matching in found.items() if matching}
    near = difflib.get_close_matches(pattern, [name for of in names.values() for name in of], 1)
    hint = f"did you mean {near[0]}?" if near else "give a part of a name, or a glob such as 'timm/resnet*'"
    raise ConfigError(f"no network's name matches {pattern!r}; {hint}")


def _matches(name: str, glob: str) -> bool:
    return fnmatchcase(name, glob) or fnmatchcase(name.rpartition("/")[2], glob)

"""How much memory this machine, or the container, has, and how often the system has killed a process for want of it."""

from pathlib import Path

from pydantic import ValidationError

from kd_hpo.config.settings import Settings
from kd_hpo.study.environment import machine
from kd_hpo.study.store.folder import StudyFolder

_KEPT = ".memory"


class NodeMemory(Settings):
    """The memory that a trial's process found where it started."""

    limit_bytes: int | None
    """Of the container where it has a limit, else of the machine; None where the system does not say."""
    kills: int | None
    """How often the system has killed a process there since it started, for want of memory."""
    node: str = ""
    """Its name in the cluster, or the machine's."""


def node_memory(root: Path = Path("/")) -> NodeMemory:
    """Reads it from the files of Linux below `root`."""
    cgroup = root / "sys/fs/cgroup"
    limits = [
        _number(cgroup / "memory.max"),
        _number(cgroup / "memory/memory.limit_in_bytes"),
        _kilobytes(root / "proc/meminfo", "MemTotal:"),
    ]
    kills = [
        _field(root / "proc/vmstat", "oom_kill"),
        _field(cgroup / "memory.events", "oom_kill"),
        _field(cgroup / "memory/memory.oom_control", "oom_kill"),
    ]
    return NodeMemory(
        limit_bytes=min((limit for limit in limits if limit), default=None),
        kills=sum(known) if (known := [count for count in kills if count is not None]) else None,
        node=machine(),
    )


def keep_memory(folder: StudyFolder, trial_id: str) -> None:
    """Writes how the memory of this node stands into the trial's folder, for the time when its process cannot tell."""
    folder.write(folder.trial(trial_id) / _KEPT, node_memory().model_dump_json())


def kept_memory(folder: StudyFolder, trial_id: str) -> NodeMemory | None:
    """Reads what `keep_memory` wrote; None where it has not come so far."""
    try:
        return NodeMemory.model_validate_json((folder.trial(trial_id) / _KEPT).read_bytes())
    except (OSError, ValidationError):
        return None


def _kilobytes(file: Path, name: str) -> int | None:
    found = _field(file, name)
    return None if found is None else 1024 * found


def _field(file: Path, name: str) -> int | None:
    """The number behind a name, each line of the file being `name number`."""
    for line in _text(file).splitlines():
        words = line.split()
        if len(words) > 1 and words[0] == name and words[1].isdigit():
            return int(words[1])
    return None


def _number(file: Path) -> int | None:
    text = _text(file).strip()  # `max` where there is no limit
    return int(text) if text.isdigit() else None


def _text(file: Path) -> str:
    try:
        return file.read_text()
    except (OSError, UnicodeDecodeError):
        return ""

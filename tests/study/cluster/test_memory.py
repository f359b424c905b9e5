"""What the system tells of memory: of a machine, and of a container with a limit, of both kinds of control groups."""

from pathlib import Path

import pytest

from kd_hpo.study.cluster.memory import NodeMemory, keep_memory, kept_memory, node_memory
from kd_hpo.study.store.folder import StudyFolder

MACHINE = {"proc/meminfo": "MemTotal:       24000000 kB\nMemFree: 1 kB\n", "proc/vmstat": "oom_kill 2\n"}


@pytest.mark.parametrize(
    ("files", "limit", "kills"),
    [
        (MACHINE, 24000000 * 1024, 2),
        (MACHINE | {"sys/fs/cgroup/memory.max": "4000\n", "sys/fs/cgroup/memory.events": "oom 9\noom_kill 3\n"}, 4000, 5),
        (MACHINE | {"sys/fs/cgroup/memory.max": "max\n"}, 24000000 * 1024, 2),
        (
            MACHINE
            | {
                "sys/fs/cgroup/memory/memory.limit_in_bytes": "5000\n",
                "sys/fs/cgroup/memory/memory.oom_control": "oom_kill_disable 0\noom_kill 1\n",
            },
            5000,
            3,
        ),
        ({}, None, None),
    ],
)
def test_the_limit_and_the_kills_are_read(tmp_path: Path, files: dict[str, str], limit: int | None, kills: int | None) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    found = node_memory(tmp_path)
    assert (found.limit_bytes, found.kills) == (limit, kills) and found.node


def test_what_a_trial_found_is_read_again_where_it_came_so_far(tmp_path: Path) -> None:
    folder = StudyFolder(tmp_path)
    assert kept_memory(folder, "trial-000") is None
    keep_memory(folder, "trial-000")
    assert isinstance(kept_memory(folder, "trial-000"), NodeMemory)

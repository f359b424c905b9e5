"""What the scripts of this folder share: the machine in words, runs in blocks, and rows with median, spread and goal."""

import datetime
import os
import platform
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import psutil
import torch


def machine() -> str:
    names = [line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line]
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return (
        f"{names[0] if names else platform.processor()}, {psutil.cpu_count()} cores, "
        f"{psutil.virtual_memory().total / 2**30:.0f} GiB, {', '.join(gpus) or 'no GPU'}, load {os.getloadavg()[0]:.1f}, "
        f"torch {torch.__version__}, Python {platform.python_version()}, {datetime.date.today()}"
    )


def in_blocks(runs: Mapping[str, Callable[[], float]], blocks: int) -> dict[str, list[float]]:
    """What each run gives, block by block: every block has each run once. A first block, not counted, warms up."""
    found: dict[str, list[float]] = {name: [] for name in runs}
    for block in range(blocks + 1):
        for name, run in runs.items():
            value = run()
            if block:
                found[name].append(value)
    return found


def tell(what: str, values: Sequence[float], unit: str, *, goal: float | None = None) -> None:
    """A row: the median, its spread, and the goal that the median should be below."""
    middle = statistics.median(values)
    text = f"{what:58s} {middle:10.3f} {unit:4s} ({min(values):.3f} to {max(values):.3f}, n={len(values)})"
    if goal is not None:
        text += f"  goal {goal:g} {unit}: {'met' if middle < goal else 'MISSED'}"
    print(text, flush=True)

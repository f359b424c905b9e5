"""Why a trial's process has died, in one line, from what Ray says of it and what the system has counted."""

import re
from dataclasses import dataclass

from kd_hpo.config.wording import cut, one_line
from kd_hpo.study.cluster.memory import NodeMemory

_OF_RAY = re.compile(r"Memory on the node .*? was ([\d.]+) ?GB(?: used)? ?/ ?([\d.]+) ?GB")
_OF_PROCESS = re.compile(r"actual memory used=([\d.]+) ?GB")
_RAN_OUT = re.compile(r"(?:^|[\s.])(?:\w*OutOfMemoryError|MemoryError)\b")
_LESS = (
    "give a trial less to hold (training.batch_size, pairs, teacher.cache_gb), or run fewer at once "
    "(resources.concurrent_trials, or more resources.cpus_per_trial)"
)
_SILENT = "its process ended without a word"


@dataclass(frozen=True)
class Death:
    words: str
    of_memory: bool = False
    """Whether memory ran out, which a search learns from as it does from a loss that does not stay finite."""


def death(told: str, before: NodeMemory | None, now: NodeMemory | None) -> Death:
    """Tells how a trial has ended that could not say it itself.

    told    what Ray says; it may run over many lines
    before  of the node when the trial's process started, and now; None where nobody knows
    """
    if in_use := _OF_RAY.search(told):
        own = _OF_PROCESS.search(told)
        held = f", of which its process held {own[1]} GB" if own else ""
        return Death(
            f"killed by Ray (SIGKILL) as memory ran out: its node had {in_use[1]} of {in_use[2]} GB in use{held}; {_LESS}", True
        )
    if "node has died" in told or "NodeDied" in told:
        return Death(
            f"its node was lost ({cut(_first(told))}); look at that machine, and run the trial again with --retry-failed"
        )
    if "process has died" in told or "SYSTEM_ERROR" in told or "WorkerCrashedError" in told:
        return _without_a_word(before, now)
    return Death(one_line(told.strip().splitlines()[-1].strip()) if told.strip() else _SILENT)


def of_memory(words: str) -> bool:
    """Whether an error that a trial could still write is that of memory, a GPU's or the machine's."""
    return bool(_RAN_OUT.search(words))


def with_remedy(words: str) -> str:
    return f"{words}; memory ran out: {_LESS}"


def _without_a_word(before: NodeMemory | None, now: NodeMemory | None) -> Death:
    limit = (now or before or NodeMemory(limit_bytes=None, kills=None)).limit_bytes
    had = f"its node has {limit / 1e9:.1f} GB for all that runs there" if limit else "how much its node has is not known"
    if before and now and before.kills is not None and now.kills is not None:
        if now.kills > before.kills:
            return Death(f"killed by the system (SIGKILL) as memory ran out: {had}; {_LESS}", True)
        return Death(
            f"{_SILENT}: killed from outside (SIGKILL), or by a fault in a library (SIGSEGV), since the system has killed "
            f"nothing for want of memory there; {had}. Run it again with --retry-failed"
        )
    return Death(
        f"{_SILENT}: killed by a signal, most often SIGKILL as memory ran out, which its node can tell no more; {had}. "
        f"If so, {_LESS}"
    )


def _first(told: str) -> str:
    return one_line(next((line.strip() for line in told.splitlines() if line.strip()), ""))

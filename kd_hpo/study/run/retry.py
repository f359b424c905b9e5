"""Runs failed trials again, from their start: what they were goes aside, and they are as if they had not ended."""

from kd_hpo.study.design.trials import Searched
from kd_hpo.study.search.journal import ask_again
from kd_hpo.study.store.folder import StudyFolder


def retry_failed(folder: StudyFolder, searched: dict[str, Searched]) -> list[str]:
    """Sets failed trials aside to be run again, and gives their ids. What each left is kept under `set_aside`."""
    again = [trial for method in searched for trial in ask_again(folder, method)]
    for status in folder.statuses():
        if status.spec.kind != "search" and status.state == "failed":
            folder.set_aside(status.spec.id)
            again.append(status.spec.id)
    return again

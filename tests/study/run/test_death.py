"""What is told of processes that could not say it themselves, from Ray's own words as Ray 2.60 writes them."""

import pytest

from kd_hpo.study.run.death import death, of_memory

BY_RAY = """1 worker(s) were killed due to the node running low on memory. \
Memory on the node (IP: 192.0.2.2, ID: 3cbf) was 22.85GB used / 23.54GB limit (0.97)
Object store memory usage: [- objects spillable: 0
- bytes spillable: 0
Selected to kill: (Task: job ID=01000000, task name=ImplicitFunc.train, pid=9407, actual memory used=9.04GB, worker ID=e0)
Refer to the documentation on how to address the out of memory issue: https://docs.ray.io"""


@pytest.mark.parametrize(
    ("told", "words", "of_memory"),
    [
        (
            BY_RAY,
            "killed by Ray (SIGKILL) as memory ran out: its node had 22.85 of 23.54 GB in use, of which its process held",
            True,
        ),
        ("The actor died because its node has died. Node Id: 3cbf\nstate\n" + "of Ray\n" * 40, "its node was lost", False),
        ("Traceback\n  File x\nOSError: no room\n\n", "OSError: no room", False),
        ("", "its process ended without a word", False),
        ("The actor is dead because its worker process has died.", "how much its node has is not known", False),
    ],
)
def test_a_death_is_one_line(told: str, words: str, of_memory: bool) -> None:
    found = death(told, None, None)
    assert words in found.words and "\n" not in found.words and len(found.words) < 500
    assert found.of_memory is of_memory


@pytest.mark.parametrize(
    ("said", "wanted"),
    [
        ("OutOfMemoryError: CUDA out of memory (own.py:1, in f)", True),
        ("torch.OutOfMemoryError: CUDA out of memory", True),
        ("MemoryError: Unable to allocate 9 GiB", True),
        ("ValueError: no MemoryErrors here", False),
    ],
)
def test_errors_of_memory_are_known_by_their_type(said: str, wanted: bool) -> None:
    assert of_memory(said) is wanted

"""The file of what a trial's process printed."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from kd_hpo.errors import StudyError
from kd_hpo.study.store.trial_log import MOST, TrialLog, follow, last_lines, opened, read_log


@pytest.fixture
def log(tmp_path: Path) -> Iterator[TrialLog]:
    with opened(tmp_path / "kd-t000" / "log.txt") as log:
        yield log


def add(log: TrialLog, content: bytes) -> None:
    with log.file.open("ab") as file:
        file.write(content)


def test_attempts_are_numbered_and_kept(log: TrialLog) -> None:
    assert log.begin_attempt("kd-t000", "here:1") == 1
    add(log, b"words\n")
    with opened(log.file) as again:
        assert again.begin_attempt("kd-t000", "there:2") == 2
    first, words, second = read_log(log.file).splitlines()
    assert first.startswith("--- attempt 1 of kd-t000, in process here:1, at 2") and words == "words"
    assert second.startswith("--- attempt 2 of kd-t000, in process there:2")


def test_a_long_log_keeps_its_ends_and_its_attempts(log: TrialLog) -> None:
    log.begin_attempt("kd-t000", "here:1")
    assert not log.shorten()
    for _ in range(3):
        add(log, b"x" * 99 + b"\n")
        add(log, b"y\n" * (MOST // 4))
        log.begin_attempt("kd-t000", "here:1")
    add(log, b"the last words\n")
    whole = log.size
    assert whole > MOST and log.shorten() and not log.shorten()
    told = read_log(log.file)
    assert log.size < MOST and told.endswith("the last words\n")
    assert [line.split()[2] for line in told.splitlines() if line.startswith("--- attempt")] == ["1", "2", "3", "4"]
    assert told.count("bytes are left out here") == 1
    assert log.begin_attempt("kd-t000", "here:1") == 5
    add(log, b"z")
    assert log.file.read_bytes().endswith(b"\nz")  # at the end, not where it ended before


def test_nothing_is_opened_through_a_link(tmp_path: Path) -> None:
    kept, link = tmp_path / "kept", tmp_path / "log.txt"
    kept.write_text("kept")
    link.symlink_to(kept)
    with pytest.raises(StudyError, match=r"log\.txt is a symbolic link"), opened(link):
        pass
    with pytest.raises(StudyError, match="is a symbolic link"):
        read_log(link)
    with pytest.raises(StudyError, match="is a symbolic link"):
        next(follow(link, 1, lambda: True))
    assert kept.read_text() == "kept"


def test_what_is_shown_acts_on_no_terminal_and_has_no_credentials(log: TrialLog) -> None:
    add(log, b"\x1b[31mred\x07 10%\r20%\r\nhttps://me:secret@host/ \xff\n")
    told = read_log(log.file)
    assert told.startswith("[31mred 10%\n20%\n") and "secret" not in told and "\ufffd" in told
    assert last_lines("a\nb\nc\n", 2) == "b\nc\n"


def test_a_log_is_followed_until_its_trial_has_ended(log: TrialLog) -> None:
    add(log, b"one\ntwo\n")
    rounds = iter([b"thr", b"ee\n", b"four"])
    left = 4

    def ended() -> bool:
        nonlocal left
        left -= 1
        return left == 0

    told = follow(log.file, 1, ended, sleep=lambda _: add(log, next(rounds)))
    assert list(told) == ["two\n", "three\n", "four"]

"""What every error of kd_hpo keeps to: its words are lines that can be printed, and hold no credentials."""

import pytest

from kd_hpo import errors
from kd_hpo.errors import ConfigError, DataError, KdHpoError, about, without_secrets

KINDS = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, KdHpoError)]


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_acts_on_a_terminal(kind: type[KdHpoError]) -> None:
    said = str(kind("red \x1b[31m, a bell \a, a line\nand \u202eanother"))
    assert said.replace("\n", "").isprintable()
    assert "\\x1b[31m" in said and "\\u202e" in said  # told, not dropped
    assert ("\n" in said) == issubclass(kind, ConfigError)  # a line for each mistake


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("at postgresql://me:secret@host/db", "at postgresql://***@host/db"),
        ("http://h/?token=secret&x=1", "http://h/?token=***&x=1"),
        ("http://h/?x=1&api_key=secret", "http://h/?x=1&api_key=***"),
        ("http://h/?tokens=1", "http://h/?tokens=1"),
        ("me@host, key=value", "me@host, key=value"),
    ],
)
def test_credentials_of_a_uri_are_left_out(text: str, kept: str) -> None:
    assert without_secrets(text) == kept
    assert str(KdHpoError(text)) == kept


def test_what_it_is_about_goes_before_and_the_kind_stays() -> None:
    with pytest.raises(DataError, match=r"^student: no images$") as caught, about("student"):
        raise DataError("no images")
    assert isinstance(caught.value.__cause__, DataError)


def test_others_errors_go_on_as_they_are() -> None:
    with pytest.raises(ZeroDivisionError), about("student"):
        _ = 1 / 0

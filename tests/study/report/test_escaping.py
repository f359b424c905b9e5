"""Text that is not to be trusted stays text, whatever reads it."""

import json
import re
from html import unescape
from html.parser import HTMLParser

import pytest
from markdown_it import MarkdownIt

from kd_hpo.study.report.escaping import in_code, in_html, in_markdown, in_plotly, in_script, in_streamlit

EVIL = '<script>alert("1")</script>|`x` [a](http://b) **c** ]]> & "quoted" \'single\''
HOSTILE = [EVIL, "``", "a`", "`", "@name #1", "a\nb", "x\x1b", "_a_ b_c", "$x^2$", "![x](y)", "two\n\n# lines", "\ud800"]
by_text = pytest.mark.parametrize("text", HOSTILE, ids=map(ascii, range(len(HOSTILE))))


class Page(HTMLParser):
    """The tags and the text of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.words = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_data(self, data: str) -> None:
        self.words += data


def plain(text: str) -> str:
    """On one line, with what cannot be printed as Python writes it."""
    return " ".join(text.split()).replace("\x1b", "\\x1b").replace("\ud800", "\\ud800")


def cell(written: str) -> Page:
    """What a reader of Markdown makes of it in a table."""
    (row,) = re.findall(r"<td>(.*)</td>", MarkdownIt("gfm-like", {"linkify": False}).render(f"| a |\n|---|\n| {written} |\n"))
    return Page(row)


@by_text
def test_in_markdown(text: str) -> None:
    page = cell(in_markdown(text))
    assert (page.tags, page.words) == ([], plain(text))


@by_text
def test_in_a_code_span(text: str) -> None:
    page = cell(in_code(text))
    assert (page.tags, page.words) == (["code"], plain(text).replace("|", "¦"))


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("layer1.0", "`layer1.0`"),
        ("a`b", "``` a`b ```".replace("```", "``")),
        ("a|b", "`a¦b`"),
        ("<img src=x onerror=alert(1)>", "`<img src=x onerror=alert(1)>`"),
        ("[x](http://e.org)", "`[x](http://e.org)`"),
        ("\x00", "`\\x00`"),
        ("", ""),
    ],
)
def test_code_takes_text_as_it_is(given: str, shown: str) -> None:
    assert in_code(given) == shown


@by_text
def test_in_html(text: str) -> None:
    page = Page(f'<p title="{in_html(text)}">{in_html(text)}</p>')
    assert (page.tags, page.words) == (["p"], plain(text))


@by_text
def test_in_a_script_block(text: str) -> None:
    written = in_script({"names": [text, 0.5]})
    assert not set(written) & set("<>&")
    assert json.loads(written) == {"names": [text, 0.5]}


def test_script_refuses_what_json_has_not() -> None:
    with pytest.raises(ValueError, match="JSON"):
        in_script([float("nan")])


@by_text
def test_in_streamlit(text: str) -> None:
    """It reads all that Markdown does, and directives, emoji and formulae: no mark of any of them stands alone."""
    written = in_streamlit(text)
    assert not re.search(r"(?<!\\)[`*_{}\[\]()<>#+\-.!|~:$&^=]", re.sub(r"\\\\", "", written))
    assert re.sub(r"\\(.)", r"\1", written) == plain(text)


def test_in_plotly() -> None:
    assert in_plotly("<b>x</b>") == "&lt;b&gt;x&lt;/b&gt;"
    assert unescape(in_plotly("a" * 50 + "z", 20)) == "a" * 6 + "…" + "a" * 12 + "z"

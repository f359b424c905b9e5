"""Text that is not to be trusted, as it is written where something reads it: one function for each kind of reader.

Names of layers, settings and methods and the messages of errors come from modules and files that users name. They reach a page,
a description or a figure through these functions only, or through the autoescaping of a template.
"""

import json
import re
from html import escape

from kd_hpo.config.wording import one_line
from kd_hpo.study.report.words import shorten

_MARKDOWN = re.compile(r"([\\`*\[\]<>!|~&#$]|(?<!\w)_|_(?!\w))")
_STREAMLIT = re.compile(r"([\\`*_{}\[\]()<>#+\-.!|~:$&^=])")


def in_html(text: object) -> str:
    """Writes text for an element or a quoted attribute of HTML."""
    return escape(one_line(str(text)))


def in_script(data: object) -> str:
    """Writes JSON for a <script> data block: without <, > and &, no text in it can end the block. Raises ValueError at a nan."""
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def in_markdown(text: object) -> str:
    """Writes text on one line of Markdown: it makes no link, picture, heading, formula or tag, and ends no cell of a table."""
    return _MARKDOWN.sub(r"\\\1", one_line(str(text)))


def in_code(text: object) -> str:
    """Writes text as a code span of Markdown, also in a table; nothing for an empty one.

    A bar would end the cell of a table, and where there is none its escape would be shown: it becomes a broken bar.
    """
    line = one_line(str(text)).replace("|", "¦")
    if not line:
        return ""
    fence = "`" * (1 + max(map(len, re.findall("`+", line)), default=0))
    return f"{fence}{line}{fence}" if len(fence) == 1 else f"{fence} {line} {fence}"


def in_streamlit(text: object) -> str:
    """Writes text for Streamlit, which reads Markdown, and emoji, colours and formulae beside it."""
    return _STREAMLIT.sub(r"\\\1", one_line(str(text)))


def in_plotly(text: object, letters: int = 34) -> str:
    """Writes text for a figure of plotly, which reads some HTML; a long one without its middle."""
    return escape(shorten(one_line(str(text)), letters), quote=False)

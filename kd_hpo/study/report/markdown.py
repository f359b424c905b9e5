"""Text in MLflow's descriptions, which it shows as Markdown."""

import re

from kd_hpo.config.wording import one_line


def as_text(words: str) -> str:
    """Words of an error or a name, on one line and as they are: in Markdown they make no link, picture, heading or tag."""
    return re.sub(r"([\\`*\[\]<>!|~&#$]|(?<!\w)_|_(?!\w))", r"\\\1", one_line(words))

"""What every page is made of: headings, charts, and widgets whose value stands in the address."""

from typing import Any

import plotly.graph_objects as go
import streamlit as st


def bound(name: str) -> dict[str, Any]:
    """For a widget whose value is part of the address, so that a link opens what its sender saw."""
    return {"key": name, "bind": "query-params"}


def dark() -> bool:
    """Whether the page has light letters on a dark ground: as the reader's system, or the page's own menu, has it."""
    return st.context.theme.type == "dark"


def heading(title: str, about: str = "") -> None:
    st.subheader(title, anchor=False)
    if about:
        st.caption(about)


def chart(figure: go.Figure, key: str, alt: str) -> None:
    """alt  what it shows, for who cannot see it"""
    config = {"displaylogo": False, "modeBarButtonsToRemove": ["lasso2d", "select2d", "autoScale2d"]}
    st.plotly_chart(figure, key=f"chart_{key}", config=config, alt=alt)

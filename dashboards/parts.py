"""What every page is made of: headings, charts, and widgets whose value stands in the address."""

from functools import partial
from typing import Any

import plotly.graph_objects as go
import streamlit as st

DRAWN = "drawn"
"""In the session's state: whether its browser has drawn what a page begins with."""
_tells_when_drawn = st.components.v2.component(
    "kd_hpo.drawn",
    js="""export default function ({ setTriggerValue }) {
  const look = () => document.querySelector("[data-testid=stSkeleton]")
    ? setTimeout(look, 50)
    : requestIdleCallback(() => setTriggerValue("drawn", true), { timeout: 1000 })
  setTimeout(look, 50)
}""",
)
"""A skeleton stands where Streamlit still fetches what it draws with."""


def bound(name: str) -> dict[str, Any]:
    """For a widget whose value is part of the address, so that a link opens what its sender saw."""
    return {"key": name, "bind": "query-params"}


def dark() -> bool:
    """Whether the page has light letters on a dark ground: as the reader's system, or the page's own menu, has it."""
    return st.context.theme.type == "dark"


def figures_may_come() -> bool:
    """False in a session's first pass, which thus sends what stands above alone: the browser draws that before it has anything
    else to do, and then asks for the rest.
    """
    if not st.session_state.get(DRAWN, False):
        _tells_when_drawn(key="browser", on_drawn_change=partial(st.session_state.__setitem__, DRAWN, True))
    return bool(st.session_state.get(DRAWN, False))


def heading(title: str, about: str = "") -> None:
    st.subheader(title, anchor=False)
    if about:
        st.caption(about)


def chart(figure: go.Figure, key: str, alt: str) -> None:
    """alt  what it shows, for who cannot see it"""
    config = {"displaylogo": False, "modeBarButtonsToRemove": ["lasso2d", "select2d", "autoScale2d"]}
    st.plotly_chart(figure, key=f"chart_{key}", config=config, alt=alt)

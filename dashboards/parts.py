"""What every page is made of: headings, charts, and widgets whose value stands in the address."""

from functools import partial
from typing import Any

import plotly.graph_objects as go
import streamlit as st

TEXT, GRID, ALL = range(3)
DRAWN = "drawn"
"""In the session's state: which of these its browser may have now."""
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
    """The arguments of a widget whose value is part of the address, so that a link opens what its sender saw."""
    return {"key": name, "bind": "query-params"}


def dark() -> bool:
    """Whether the page has light letters on a dark ground: as the reader's system, or the page's own menu, has it."""
    return st.context.theme.type == "dark"


def wanted_now() -> int:
    """Tells how much of a page this session's browser may have now: its TEXT, then the GRID too, then ALL of it.

    What a page sends at once the browser draws at once, after it has fetched what grids and figures are drawn with. So a page
    sends its text, and more of it each time when the browser says that it has nothing else to do.
    """
    drawn: int = st.session_state.get(DRAWN, TEXT)
    return drawn


def more_once_drawn() -> None:
    """Has the browser ask for the next part, once it has drawn what the page has sent."""
    drawn = wanted_now()
    _tells_when_drawn(key=f"browser{drawn}", on_drawn_change=partial(st.session_state.__setitem__, DRAWN, drawn + 1))


def heading(title: str, about: str = "") -> None:
    st.subheader(title, anchor=False)
    if about:
        st.caption(about)


def chart(figure: go.Figure, key: str, alt: str) -> None:
    """Shows a figure; alt says what it shows, for who cannot see it."""
    config = {"displaylogo": False, "modeBarButtonsToRemove": ["lasso2d", "select2d", "autoScale2d"]}
    st.plotly_chart(figure, key=f"chart_{key}", config=config, alt=alt)

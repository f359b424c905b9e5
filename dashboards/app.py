"""What Streamlit runs, again at every change of a page."""

from dashboards.frame import show

show()

"""What Streamlit runs, again at every change of a page."""

from kd_hpo.dashboards.frame import show

show()

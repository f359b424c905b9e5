"""The dashboard: what MLflow holds of studies, as pages in a browser. `kd-hpo ui` starts it.

It reads MLflow and nothing else, so it works while a study runs, and on a tracking server of another machine:

    MLFLOW_TRACKING_URI=http://127.0.0.1:5000 python -m kd_hpo.dashboards --port 5001

| module | what is in it |
|---|---|
| `tracked` | MLflow into data frames: the trials of a study, what its summary says |
| `matrices` | the matrix of a trial or of a method over the epochs, with the layers' names and shapes |
| `analysis` | importance of the outer settings, tests between methods, agreement of seeds |
| `figures`, `matrix_figures`, `ribbons` | plotly |
| `page_study`, `page_lambda`, `page_compare`, `page_export` | a page each |
| `app`, `__main__` | the frame around the pages; the server |

Names of layers, methods and settings are untrusted: they reach a page through `kd_hpo.study.report.escaping` only.
"""

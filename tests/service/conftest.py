from kd_hpo.study.environment import prepare_environment

prepare_environment()  # before any test module imports Ray or MLflow

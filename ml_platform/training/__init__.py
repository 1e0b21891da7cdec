"""Splits, trainers, tuning, calibration and resource usage. Runs without Dagster or MLflow."""

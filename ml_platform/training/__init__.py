"""Splits, trainers, tuning, calibration and what they cost. Runs without Dagster or MLflow."""

"""Monitoring of served models: predictions, outcomes, drift, performance. This package does not import Dagster."""

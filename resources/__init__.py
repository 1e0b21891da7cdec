"""Dagster resources: one module for each backing service, and the profiles that choose them."""

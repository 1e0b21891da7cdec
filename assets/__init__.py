"""Declarations of the teams: one folder per domain, each with datasets, feature views and models."""

"""The state store: one transactional database with everything that the platform decides and remembers.

The lake contains rows, MLflow contains runs and models, and Dagster contains events. No other part of the platform
keeps state of its own in files, commit histories or event logs.
"""

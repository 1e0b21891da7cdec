"""Tables in the lake: landing, contracts, versions. Plain Python on tables and paths; knows nothing of Dagster."""

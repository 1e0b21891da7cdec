"""Tables in the lake: landing, contracts, versions. The package works on tables and paths and does not use Dagster."""

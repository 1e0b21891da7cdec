"""What is seen once a model serves: predictions, outcomes, drift, performance. Knows nothing of Dagster."""

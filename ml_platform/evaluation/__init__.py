"""Metrics, intervals, slices, gates, verdicts and the model card. Plain Python on arrays."""

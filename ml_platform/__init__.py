"""The engine: datasets, features, models and everything that happens to them. Names no dataset, column or product."""

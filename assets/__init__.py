"""What teams declare: one folder per domain, each with datasets, feature views and models."""

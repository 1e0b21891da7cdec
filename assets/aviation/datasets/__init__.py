"""Datasets of the aviation domain: the loaders, and the contracts in `defs.yaml`."""

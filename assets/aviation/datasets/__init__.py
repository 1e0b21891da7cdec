"""Datasets of the aviation domain: loaders, and their contracts in defs.yaml."""

"""Transformers of fitted views: the protocol, and the built-in ones."""

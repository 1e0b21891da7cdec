"""Serving code of every bento: turns a request into predictions, and contains no training code."""

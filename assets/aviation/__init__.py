"""Flights out of New York: what comes in, what is computed from it, and the risk of a late arrival."""

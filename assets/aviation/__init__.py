"""The aviation domain: flights out of New York, features computed from them, and the risk of a late arrival."""

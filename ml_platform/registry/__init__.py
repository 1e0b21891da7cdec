"""Tracked runs, model versions, manifests, approvals, promotion, and the log of decisions."""

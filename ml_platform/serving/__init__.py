"""Bentos, the gateway, the desired state and what makes the world match it."""

"""Bentos, the gateway, the wanted state and what makes the world match it."""

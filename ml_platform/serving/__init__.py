"""Serving: bentos, the gateway, the desired state, and the reconciler that makes the services match it."""

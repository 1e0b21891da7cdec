"""The platform in a notebook or script: `ml_platform.open` returns a session that reads a home and never changes it."""

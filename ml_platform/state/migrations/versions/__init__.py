"""The migrations of the state store, oldest first by their number."""

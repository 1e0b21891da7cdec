"""The migrations of the state store's schema, one module per revision."""

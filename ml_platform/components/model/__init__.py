"""The component `Model` and what it makes: one module per kind of asset, in the order of the data."""

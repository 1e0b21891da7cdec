"""The component `Model`, with one module per group of assets."""

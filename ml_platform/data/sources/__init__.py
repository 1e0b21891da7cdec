"""Where the rows of a dataset come from besides landed files: one module per kind of source."""

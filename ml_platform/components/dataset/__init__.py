"""The component `Dataset` and what it makes: a table behind blocking checks, and its landing sensor."""

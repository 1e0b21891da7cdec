"""The component `Dataset`: a table with blocking checks, and a landing sensor."""

"""The domain of penguins: their species by island and body measures, from one static table."""

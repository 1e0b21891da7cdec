"""The model `departure_risk`: the probability that a flight arrives more than 15 minutes late."""

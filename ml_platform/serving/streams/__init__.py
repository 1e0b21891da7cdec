"""Predictions for the messages of streams: what a stream is, NATS as one kind, and the process that answers them."""

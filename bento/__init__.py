"""What goes into every bento: from a request to a prediction, and nothing of training."""

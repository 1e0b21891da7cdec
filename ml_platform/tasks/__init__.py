"""Tasks: what a kind of prediction means in training, evaluation, serving and monitoring, one module per kind."""

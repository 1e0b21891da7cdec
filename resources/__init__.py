"""What the platform runs on: one file per backing service, and the profiles that choose them."""

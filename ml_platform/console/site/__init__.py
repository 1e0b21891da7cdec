"""The home page of a running platform, a page for each model, and the reports: HTML from the stores of the home."""

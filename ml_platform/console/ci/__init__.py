"""The report of a candidate for a pull request, for `ml-platform ci`."""

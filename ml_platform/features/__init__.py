"""Feature views: one change log, read as of a time for training and at its end for serving."""

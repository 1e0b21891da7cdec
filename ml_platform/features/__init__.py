"""Feature views: one change log each; training reads it as of a time, serving reads the last fact of each entity."""

"""Feature views of the aviation domain: facts that are known about a flight before its departure."""

"""Reports for auditors and risk teams: the inventory of models and the compliance report."""

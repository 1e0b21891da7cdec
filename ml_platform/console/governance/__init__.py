"""What an auditor or a risk team reads: the inventory of models and the compliance report."""

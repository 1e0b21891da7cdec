"""A small domain for a replay: the sales of four market stalls."""

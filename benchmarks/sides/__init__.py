"""One module per program that is measured; each runs in its own environment and answers one job file."""

"""From names to finished cells: plans, runs, tuning, probes. Nothing here draws or prints a table of results."""

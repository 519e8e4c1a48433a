"""From names to finished cells: plans, runs, tuning, probes. Nothing here draws or prints a table of results.

`probes` holds what is asked of finished fits, one kind of table a file; `cluster` what hands jobs to Slurm and Ray.
"""

"""Jobs on several machines: Slurm through submitit, and Ray; what travels to them and what comes back."""

"""What a user submits to a Slurm cluster."""

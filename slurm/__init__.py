"""Jobs on a Slurm cluster, and checks of machines and nodes."""

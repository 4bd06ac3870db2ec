"""What a run takes, in memory, hours and GPU-hours, before anything is spent."""

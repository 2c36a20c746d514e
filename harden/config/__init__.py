"""What a run is told: tasks, variants, sections of settings, and the pipeline file."""

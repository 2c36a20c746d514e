"""The one place that writes: whole files and folders, or none."""

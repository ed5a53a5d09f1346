"""Is the artifact its program, and is it near the model: drift, gates, verification, comparison, debugging, lint."""

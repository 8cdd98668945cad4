"""What a run leaves: metric, records, run directory, results, comparison."""

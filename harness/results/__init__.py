"""Results of runs: metric, records, run directory, results file, comparison."""

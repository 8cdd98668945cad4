"""Runs: evaluation, one pass over many configurations, segment, progress, overlays, W&B."""

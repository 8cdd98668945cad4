"""Cached computations: the artifact store, stages, the work queue, precompute."""

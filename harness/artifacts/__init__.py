"""Values computed once and kept: the store, stages, the work queue, precompute."""

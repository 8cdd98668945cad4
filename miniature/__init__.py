"""Miniature: a small world drawn in code, with tiny models of the library classes that load the real ones."""

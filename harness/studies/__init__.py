"""Rows and columns of overrides: tables, sweeps, papers' tables, gates."""

"""FreeSeg-Diff (Corradini et al., 2024)."""

"""OVDiff (Karazija et al., ECCV 2024)."""

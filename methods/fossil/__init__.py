"""FOSSIL (Barsellotti et al., WACV 2024)."""

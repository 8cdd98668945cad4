"""The contract of a method and of its parts; windows: grid and stitching."""

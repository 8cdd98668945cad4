"""The lowest layer: errors, atomic files, processes and ranks, plug-ins, provenance."""

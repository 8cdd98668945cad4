"""Below everything: errors, atomic files, processes and ranks, plug-ins, provenance."""

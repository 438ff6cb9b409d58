"""A run's folder: its files, its provenance, and recorded results that are computed again from their rows."""

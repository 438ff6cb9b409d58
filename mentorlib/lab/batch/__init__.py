"""Notebooks and studies in batch."""

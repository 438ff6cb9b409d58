"""Runs for others: archives, model folders, logs for Inspect and trackio."""

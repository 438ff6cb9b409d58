"""Runs for other people and other viewers: archives, model repositories, logs for Inspect and trackio."""

"""Where model output runs, and the toolboxes whose calls it may make. Neither torch nor trl is imported here."""

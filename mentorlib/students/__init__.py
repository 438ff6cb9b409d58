"""The student that ships with the project, its corpus and its making (notebook 90)."""

"""HTML reports, transcripts, widgets, live training."""

"""Chat templates, engines, the multi-turn loop, grading, evaluation and endpoints."""

"""A reward of your own: reward=mine.py:brevity in notebook 02, rewards=[mine.py:brevity] in notebook 03."""


def brevity(trajectory, reference, terms):
    """Right answers, and among these the ones with fewer calls."""
    return terms["correct"] * (1.0 - 0.1 * len(trajectory.calls))

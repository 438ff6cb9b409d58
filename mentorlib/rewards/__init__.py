"""Rewards: pure functions from what a policy did to a score with named terms.

Neither torch nor trl is imported here.
"""

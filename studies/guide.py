"""A reward of our own, as a function in a file: MENTOR's for right answers, progress for wrong ones.

``exact`` gives a wrong answer at most 0.06 for the teacher's set of tools. Where a whole group is wrong (half of the
shipped student's groups) that is all there is to rank by, and a chain with three of four right calls scores as one with
none. ``guide`` pays a wrong answer for the teacher's tool results that it reached, as ``credit`` does, and keeps
exact's terms for a right one.
"""

from collections import Counter

from mentorlib.rewards.corrected import read_attempt


def guide(trajectory, reference, terms):
    """0.7 right + 0.3 (match of the sets of tools if right, else progress) + 0.1 clean, in [0, 1.1].

    Progress is the number of the teacher's tool results that the calls returned too, over the larger of the two numbers
    of results; 0 without an answer.
    """
    guidance = terms["tools"]
    if terms["answered"] and not terms["correct"]:
        results, wanted = read_attempt(trajectory).results, Counter(reference.results)
        guidance = (Counter(results) & wanted).total() / max(len(results), wanted.total(), 1)
    return 0.7 * terms["correct"] + 0.3 * guidance + 0.1 * terms["clean"]

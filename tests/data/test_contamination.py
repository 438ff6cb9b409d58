"""Which evaluation questions a training set gives away."""

from mentorlib.data.contamination import overlapping


def test_contamination_is_by_thirteen_words_or_the_whole():
    long = " ".join(f"w{i}" for i in range(20))
    given_away = overlapping(
        [long, "Who is it?"], [f"x {long[6:]}", " ".join(long.split()[:12]), "who IS it", "who is"]
    )
    assert given_away == [True, False, True, False]

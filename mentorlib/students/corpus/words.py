"""The words and sentences of words.yaml, and words made up of syllables."""

import random
from pathlib import Path
from typing import Any

import yaml

DATA: dict[str, Any] = yaml.safe_load(Path(__file__).with_name("words.yaml").read_text(encoding="utf-8"))
NOUNS, ADJECTIVES, TEXT_WORDS, SYLLABLES, RELATIONS, PLACES = (
    DATA[key].split() for key in ("nouns", "adjectives", "text_words", "syllables", "relations", "places")
)


def draw_word(rng: random.Random, words: list[str]) -> str:
    """A word of the list, or one time in eight a made-up one, since copying unknown words needs practice."""
    return rng.choice(words) if rng.random() < 0.88 else "".join(rng.choices(SYLLABLES, k=rng.randint(2, 3)))

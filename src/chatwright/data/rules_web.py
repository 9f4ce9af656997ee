"""Rules made for English web pages, each set off unless asked for: Gopher's stop words and n-grams, C4's, FineWeb's.

Sources: Rae et al. 2021, appendix A.1 and table A1; Raffel et al. 2020, section 2.2; Penedo et al. 2024, section 3.6.
They look at prose only (`Shape.prose`), and those about lines only at texts of `_MIN_LINES` lines: a docstring has no
line that ends a sentence, and a short text too few lines for a share to mean something. The papers except neither.
"""

from chatwright.data.rules_base import Shape, Verdict, above, share_of
from chatwright.foundation.config import Config

_MIN_LINES = 5
_STOP_WORDS = frozenset({"the", "be", "to", "of", "and", "that", "have", "with"})  # Gopher's eight
_SENTENCE_ENDS = (".", "!", "?", '."', '!"', '?"', ".\u201d", "!\u201d", "?\u201d", "\u3002", "\uff01", "\uff1f")
_SHORT_LINE = 30
_PLACEHOLDERS = ("lorem ipsum",)
_POLICY = ("terms of use", "privacy policy", "cookie policy", "uses cookies", "use of cookies", "use cookies")


class WebRuleConfig(Config):
    """Which sets apply, and FineWeb's thresholds."""

    stop_words: bool = False  # Gopher: at least two of eight English words; English only
    repeated_ngrams: bool = False  # Gopher, table A1: characters in repeated runs of 5 to 10 words
    c4: bool = False  # placeholder text, curly brackets, too few sentences, pages that are cookie notices
    fineweb: bool = False  # lines that end no sentence, repeated characters, short lines
    min_stop_words: int = 2  # Gopher: the same
    min_sentences: int = 3  # C4: the same, for a document of lines that end in punctuation
    max_policy_share: float = 0.5  # ours, of prose lines; C4 takes single lines with such words out
    min_lines_with_end: float = 0.12  # FineWeb: the same
    max_repeated_line_characters: float = 0.1  # FineWeb: the same
    max_short_lines: float = 0.67  # FineWeb: the same, lines below 30 characters


# Gopher, table A1: largest share of characters in repeated runs of that many words.
_MAX_IN_REPEATED = {5: 0.15, 6: 0.14, 7: 0.13, 8: 0.12, 9: 0.11, 10: 0.10}


def first_web_verdict(shape: Shape, config: WebRuleConfig) -> Verdict | None:
    """The first reason to drop a text among the sets that apply."""
    sets = (
        (config.stop_words, stop_words),
        (config.c4, c4),
        (config.fineweb, fineweb),
        (config.repeated_ngrams, repeated_ngrams),
    )
    return next((found for is_on, rule in sets if is_on and (found := rule(shape, config))), None)


def stop_words(shape: Shape, config: WebRuleConfig) -> Verdict | None:
    """No English sentence goes without them."""
    count = len(_STOP_WORDS.intersection(word.lower() for word in shape.words))
    return Verdict("stop_words", f"{count} of {len(_STOP_WORDS)}") if count < config.min_stop_words else None


def c4(shape: Shape, config: WebRuleConfig) -> Verdict | None:
    """Placeholder text, curly brackets, cookie notices, and texts of too few sentences."""
    lowered = shape.text.lower()
    if any(phrase in lowered for phrase in _PLACEHOLDERS):
        return Verdict("lorem_ipsum", "")
    if "{" in shape.text:
        return Verdict("curly_bracket", "")
    notices = sum(any(phrase in line.lower() for phrase in _POLICY) for line in shape.prose)
    if notices and share_of(notices, len(shape.prose)) > config.max_policy_share:
        return Verdict("policy_notice", f"{notices} of {len(shape.prose)} lines")
    sentences = sum(line.endswith(_SENTENCE_ENDS) + line.count(". ") for line in shape.prose)
    return Verdict("few_sentences", f"{sentences}") if sentences < config.min_sentences else None


def fineweb(shape: Shape, config: WebRuleConfig) -> Verdict | None:
    """The three filters that FineWeb found by comparing good and bad crawls."""
    lines = shape.prose
    if len(lines) < _MIN_LINES:
        return None
    ended = share_of(sum(line.endswith(_SENTENCE_ENDS) for line in lines), len(lines))
    if ended < config.min_lines_with_end:
        return Verdict("lines_without_end", f"{ended:.3f} end a sentence, at least {config.min_lines_with_end:g}")
    short = share_of(sum(len(line) < _SHORT_LINE for line in lines), len(lines))
    return above("short_lines", short, config.max_short_lines) or above(
        "fineweb_repeated_characters", shape.repeated_lines.character_share, config.max_repeated_line_characters
    )


def repeated_ngrams(shape: Shape, config: WebRuleConfig) -> Verdict | None:  # noqa: ARG001 - the rules' signature
    """Runs of words that stand more than once fill the text."""
    for size, limit in _MAX_IN_REPEATED.items():
        share = share_of(shape.terms.characters_in_repeated(size), shape.terms.characters)
        if share > limit:
            return Verdict(f"repeated_{size}grams", f"{share:.3f}, at most {limit:g}")
    return None

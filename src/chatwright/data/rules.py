"""Quality rules: each looks at a text's shape and gives a reason to drop it, or none.

After Rae et al. 2021 ("Scaling language models: methods, analysis and insights from training Gopher", appendix A.1),
whose thresholds were set for web pages. `RuleConfig` has theirs beside ours; where they differ, documentation with
code is why, and the field says how. Rules for one language are in `rules_web`: none is assumed here.
"""

import re
from collections.abc import Callable, Iterator

from chatwright.data.rules_base import Shape, Verdict, above, share_of
from chatwright.data.rules_web import WebRuleConfig, first_web_verdict
from chatwright.foundation.config import Config

_BULLETS = ("\u2022", "\u2023", "\u25cf", "\u25e6", "\u2043", "* ", "- ")
_ELLIPSES = ("...", "\u2026")
# A hash that begins a word, or an ellipsis after one: `list[...]` and `C#` are no symbols of careless writing.
_SYMBOL = re.compile(r"(?<!\S)#|\w(?:\.\.\.|\u2026)")
_MIN_NGRAM_COUNT = 4


class RuleConfig(Config):
    """Thresholds of the rules. "Gopher" in a comment is the value of the paper's text or its table A1."""

    min_words: int = 25  # Gopher: 50; documentation of one function is a whole document
    max_words: int = 10_000_000  # Gopher: 100,000; a book is longer, and `limits` has the limit of sizes
    min_mean_word_length: float = 2.0  # Gopher: 3
    max_mean_word_length: float = 18.0  # Gopher: 10; qualified names are long
    max_symbols_per_word: float = 0.1  # Gopher: the same; ours outside code
    max_bullet_lines: float = 0.9  # Gopher: the same
    max_ellipsis_lines: float = 0.3  # Gopher: the same; ours outside code
    min_alphabetic_words: float = 0.6  # Gopher: 0.8; numbers of examples are words too
    max_repeated_lines: float = 0.45  # Gopher: 0.3; ours counts lines of three words and more
    max_repeated_line_characters: float = 0.4  # Gopher: 0.2, with the same difference
    max_repeated_paragraphs: float = 0.45  # Gopher: 0.3, likewise
    max_repeated_paragraph_characters: float = 0.4  # Gopher: 0.2, likewise
    max_top_2gram: float = 0.25  # Gopher: 0.2; share of characters in the most frequent pair of words
    max_top_3gram: float = 0.25  # Gopher: 0.18; tables of options repeat "optional, defaults to"
    max_top_4gram: float = 0.25  # Gopher: 0.16
    max_replacement_characters: float = 0.005  # ours: share of characters that were lost in decoding
    web: WebRuleConfig = WebRuleConfig()  # for English web pages; off, since code and other languages fail them

    def problems(self) -> Iterator[str]:
        """Shares lie between 0 and 1, and no lower limit is above its upper one."""
        shares = [name for name in type(self).model_fields if name.startswith(("max_bullet", "max_ell", "max_rep"))]
        shares += ["min_alphabetic_words", "max_top_2gram", "max_top_3gram", "max_top_4gram"]
        for name in shares:
            if not 0 <= getattr(self, name) <= 1:
                yield f"`{name}` is a share and must lie between 0 and 1: {getattr(self, name)}"
        if self.min_words > self.max_words:
            yield f"`min_words` must not exceed `max_words`: {self.min_words} > {self.max_words}"
        if self.min_mean_word_length > self.max_mean_word_length:
            yield "`min_mean_word_length` must not exceed `max_mean_word_length`"


Rule = Callable[[Shape, RuleConfig], Verdict | None]


def first_verdict(shape: Shape, config: RuleConfig) -> Verdict | None:
    """The first reason to drop a text, cheap rules first; None keeps it."""
    for rule in RULES:
        verdict = rule(shape, config)
        if verdict is not None:
            return verdict
    return first_web_verdict(shape, config.web)


def word_count(shape: Shape, config: RuleConfig) -> Verdict | None:
    """Too few words to learn from, or too many for one document."""
    number = len(shape.terms) + shape.unspaced
    if number < config.min_words:
        return Verdict("too_few_words", f"{number} words")
    return Verdict("too_many_words", f"{number} words") if number > config.max_words else None


def replacement_characters(shape: Shape, config: RuleConfig) -> Verdict | None:
    """Too much of the text was lost in decoding."""
    share = share_of(shape.text.count("\N{REPLACEMENT CHARACTER}"), len(shape.text))
    return above("replacement_characters", share, config.max_replacement_characters)


def mean_word_length(shape: Shape, config: RuleConfig) -> Verdict | None:
    """Words of an unlikely length: tables of digits, encoded data. A text mostly without spaces has no such words."""
    if 2 * shape.unspaced > shape.terms.characters:
        return None
    mean = share_of(shape.terms.characters, len(shape.terms))
    outside = not config.min_mean_word_length <= mean <= config.max_mean_word_length
    return Verdict("mean_word_length", f"{mean:.1f} characters") if outside else None


def alphabetic_words(shape: Shape, config: RuleConfig) -> Verdict | None:
    """Too few words with a letter."""
    low = shape.alphabetic_share < config.min_alphabetic_words
    return Verdict("alphabetic_words", f"{shape.alphabetic_share:.2f} of words") if low else None


def symbols(shape: Shape, config: RuleConfig) -> Verdict | None:
    """Too many hashes and ellipses in prose."""
    text = shape.text
    if "#" not in text and "..." not in text and "\u2026" not in text:
        return None
    lines = (line for line in shape.prose if "#" in line or "..." in line or "\u2026" in line)
    count = sum(len(_SYMBOL.findall(line)) for line in lines)
    return above("symbols", share_of(count, len(shape.words) + shape.unspaced), config.max_symbols_per_word)


def bullet_lines(shape: Shape, config: RuleConfig) -> Verdict | None:
    """Nearly all lines are entries of lists."""
    share = share_of(sum(line.startswith(_BULLETS) for line in shape.lines), len(shape.lines))
    return above("bullet_lines", share, config.max_bullet_lines)


def ellipsis_lines(shape: Shape, config: RuleConfig) -> Verdict | None:
    """Many lines of prose are cut off: teasers."""
    share = share_of(sum(line.endswith(_ELLIPSES) for line in shape.prose), len(shape.prose))
    return above("ellipsis_lines", share, config.max_ellipsis_lines)


def repeated_lines(shape: Shape, config: RuleConfig) -> Verdict | None:
    """The same lines again and again."""
    found = shape.repeated_lines
    return above("repeated_lines", found.share, config.max_repeated_lines) or above(
        "repeated_line_characters", found.character_share, config.max_repeated_line_characters
    )


def repeated_paragraphs(shape: Shape, config: RuleConfig) -> Verdict | None:
    """The same paragraphs again and again."""
    found = shape.repeated_paragraphs
    return above("repeated_paragraphs", found.share, config.max_repeated_paragraphs) or above(
        "repeated_paragraph_characters", found.character_share, config.max_repeated_paragraph_characters
    )


def top_ngrams(shape: Shape, config: RuleConfig) -> Verdict | None:
    """One phrase fills the text."""
    for size, limit in ((2, config.max_top_2gram), (3, config.max_top_3gram), (4, config.max_top_4gram)):
        top = shape.terms.top_ngram(size)
        if top.times < _MIN_NGRAM_COUNT:
            return None  # a longer phrase is no more frequent than a shorter one
        share = top.times * top.characters / shape.terms.characters
        if share > limit:
            phrase = shape.terms.phrase(shape.text, top.first, size)
            return Verdict(f"top_{size}gram", f"{share:.2f} of characters are `{phrase[:60]}`")
    return None


RULES: tuple[Rule, ...] = (
    word_count,
    replacement_characters,
    mean_word_length,
    bullet_lines,
    ellipsis_lines,
    symbols,
    alphabetic_words,
    repeated_lines,
    repeated_paragraphs,
    top_ngrams,
)

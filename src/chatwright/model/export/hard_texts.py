"""Texts on which tokenizers differ: digits, spaces, emoji, scripts, marks, code, control characters, mixed."""

import random

_PIECES = (
    *("0", "7", "42", "007", "1234567", "3.14159", "1,000,000", "0x1F", "12:30", "٣٤٥", "½", "²", "Ⅷ"),
    *(" ", "  ", "   ", "\t", "\n", "\r\n", "\n\n", " \n ", "\u00a0", "\u2003", "\u3000", "\u200b", "\ufeff"),
    *("😀", "👩\u200d👩\u200d👧", "🇩🇪", "👍🏽", "✈️", "☃", "🫠"),
    *("漢字", "ひらがな", "カタカナ", "한국어", "中文。", "，", "「」"),
    *("مرحبا", "שלום", "\u202eabc\u202c", "עִבְרִית", "اردو"),
    *("e\u0301", "n\u0303", "a\u0308\u0301", "Z\u0351\u036b", "नमस्ते", "ไทย", "Ελληνικά", "Привет", "İi", "ß", "ﬁ"),
    *("def f(x):\n    return x ** 2\n", "if (a != b) { c += d[0]; }", "<div class='x'>", "a_b-c", "\\n", "$x^2$"),
    *("\x00", "\x01", "\x07", "\x1b[0m", "\x7f", "\x85", "\u2028", "\ufffd", "\U0010ffff"),
    *("don't", "I'LL", "they've", "'s", "'S", "’s", "it''s", "Hello", "world", "THE", "naïve", "...", "!!", "a" * 40),
    *("#!/bin/sh", "--"),
    *("<|im_start|>", "<|im_end|>", "<|endoftext|>", "<s>", "</s>", "[INST]", "<|eot_id|>", "<0x0A>"),
)  # fmt: skip


def hard_texts(count: int = 1_000, *, seed: int = 0) -> list[str]:
    """So many texts: each piece alone and between letters first, then random mixtures; the same for the same seed."""
    rng = random.Random(seed)
    texts = [*_PIECES, *(f"a{piece}b" for piece in _PIECES), *(f" {piece} x" for piece in _PIECES)]
    while len(texts) < count:
        texts.append("".join(rng.choice((*_PIECES, " ", " ")) for _ in range(rng.randrange(2, 12))))
    return texts[:count]

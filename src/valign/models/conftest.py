"""What the tests of this room share: random texts of every script, and the embedded model, loaded once."""

from __future__ import annotations

import random

import pytest

PIECES = (
    *(
        "the",
        " answer",
        " isn't",
        "Hello",
        " world",
        "  ",
        "   ",
        "\n",
        "\n\n",
        "\t",
        " \n ",
        "0",
        "12345",
        " 3.14",
        "a  3",
    ),
    *("日本語", "Привет", "العربية", "हिन्दी", "é", "e\u0301", "ﬁ", "ß", "İ", "Ǆ", "½", "²", "Ⅷ", "٣"),
    *(
        "🙂",
        "👩‍👩‍👧‍👦",
        "🇫🇷",
        "\u200b",
        "\u200d",
        "\ufeff",
        "\u00a0",
        "\u2028",
        "\x00",
        "\x7f",
        "\ufffd",
        "\U0010fffd",
    ),
    *(
        "<|im_start|>",
        "<|im_end|>",
        "</s>",
        "<s>",
        "[INST]",
        "{{ x }}",
        "{% if %}",
        "▁",
        "Ġ",
        "<0x41>",
        "'s",
        "...",
        "{}",
    ),
)


def random_text(rng: random.Random, longest: int = 12) -> str:
    """Pieces that provoke merges, normalization and special tokens, with random code points among them."""
    out = []
    for _ in range(rng.randint(0, longest)):
        if rng.random() < 0.25:
            point = rng.choice(
                [rng.randint(32, 0x2FF), rng.randint(0x300, 0xD7FF), rng.randint(0xE000, 0x10FFFF)]
            )
            out.append(chr(point))
        else:
            out.append(rng.choice(PIECES))
    return "".join(out)


@pytest.fixture(scope="session")
def texts():
    """1000 pairs (prompt, response) of random texts."""
    rng = random.Random(0)
    return [(random_text(rng), random_text(rng)) for _ in range(1000)]


@pytest.fixture(scope="session")
def embedded_tokenizer():
    """The default model's tokenizer, from the cache (converted at first use)."""
    from transformers import AutoTokenizer

    from valign.models import embedded

    return AutoTokenizer.from_pretrained(str(embedded.folder()), local_files_only=True)


@pytest.fixture(scope="session")
def default_model():
    """The embedded default model in float32; tests must not change it."""
    from valign.models.loading import load_model

    return load_model("smollm2-135m-instruct", dtype="float32", device="cpu")

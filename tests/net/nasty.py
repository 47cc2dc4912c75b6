"""Names that somebody may choose to do harm: paths, options, terminal sequences, twins."""

from __future__ import annotations

import random
from collections.abc import Iterator

PARTS = (
    *(
        "..",
        "/",
        "\\",
        "\0",
        "~",
        "-rf",
        "--",
        "$(id)",
        "`id`",
        "|",
        ";",
        "&",
        "*",
        "%00",
        "%2e%2e%2f",
        "C:",
        "nul",
    ),
    *(
        "\x1b[31m",
        "\x1b]0;x\x07",
        "\x9b31m",
        "\r",
        "\n",
        "\b",
        "\x7f",
        "\t",
        "\u202e",
        "\u2066",
        "\u200b",
        "\ufeff",
    ),
    *(
        "é",
        "e\u0301",
        "ﬁ",
        "Ａ",
        "\u115f",
        "\u3164",
        "\ue000",
        "\U000e0041",
        "😀",
        "𝐀",
        "ß",
        "İ",
        "\u0378",
        "\u00ad",
    ),
    *("etc", "passwd", "a", "B", "0", ".", "_", "-", " ", ".part", ".qcow2", "x" * 64, "é" * 64, "z" * 300),
)
FIXED = (
    *(
        "",
        ".",
        "..",
        "/",
        "/etc/passwd",
        "../../etc/passwd",
        "a/b",
        "a/../b",
        "./a",
        "a\0b",
        "-rf",
        "--help",
        ".bashrc",
    ),
    *(
        "con",
        "aux.raw",
        "a" * 65,
        "\ud800",
        "a\ud800",
        "json:{}",
        "file:/etc/passwd",
        "nbd://x",
        "a:b",
        "a,b",
        "a=b",
    ),
)


def names(count: int, seed: int = 0) -> Iterator[str]:
    """So many of them."""
    yield from FIXED
    rng = random.Random(seed)
    for _ in range(count - len(FIXED)):
        yield "".join(rng.choices(PARTS, k=rng.randint(1, 6)))


def is_safe(text: str) -> bool:
    """Whether a terminal can be given ``text``."""
    return all(char.isprintable() or char == "\n" for char in text)

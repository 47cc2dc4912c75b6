"""Completion of references. (being written)"""


def complete_reference(incomplete: str) -> list[str]:
    return []

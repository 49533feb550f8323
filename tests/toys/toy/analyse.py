"""The toy's analysis, apart from its training."""


def count(colour: str) -> int:
    return len(colour)

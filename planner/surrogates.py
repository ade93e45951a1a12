"""Text that cannot be encoded: surrogates, halves of a character that JSON escapes can leave in a text."""


def join_surrogates(text: str) -> str:
    """Join halves of one character that stand side by side, and write U+FFFD for a half that stands alone."""
    if text.isascii():
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")

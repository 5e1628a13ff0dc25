"""The Lambda rows of the parity table."""

ROWS: list[tuple[str, str, str]] = []

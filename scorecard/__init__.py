"""The scorecard: one command that measures what the library survives; ``python -m scorecard --list``."""

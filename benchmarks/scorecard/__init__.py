"""The scorecard: a command that measures what the library survives; see ``--list``."""

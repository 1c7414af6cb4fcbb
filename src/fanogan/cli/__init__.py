"""The command line: what a user types, what it calls, and what it shows."""

from fanogan.cli.parser import keep_memory, main

__all__ = ["keep_memory", "main"]

"""The command line: the door for people and programs. It prints; the rooms below return and log.

Every command has --json (one JSON document on standard output). Exit status: 0 done, 1 the user can fix it,
2 usage, 3 a bug of ours.
"""

from valign.cli.app import app, main

__all__ = ["app", "main"]

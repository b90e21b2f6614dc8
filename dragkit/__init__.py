"""dragkit: how much of a photo leaks from the features a phone sends to a server, and what stops it.

The attack path is `schedule`, `client`, `prior`, `guidance`, `attacks.drag`; see the book for the story around it.
"""

__version__ = "0.1.0"

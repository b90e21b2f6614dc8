"""What an attacker who knows the defence does about it: a reply turns what was received into what an attack is given."""

from dragkit.adaptive.replies import AWARE, REPLIES, Reply, check_reply, hear

__all__ = ["AWARE", "REPLIES", "Reply", "check_reply", "hear"]

"""Experts from moments: representations, the sums that clients send, ridge heads, and personal heads."""

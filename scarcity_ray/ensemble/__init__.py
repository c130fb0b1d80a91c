"""Experts from moments: representations, the sums that clients send, ridge heads, personal heads, and the router."""

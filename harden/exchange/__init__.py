"""Policies in the formats of others: read from them, and written to them, checked against the original."""

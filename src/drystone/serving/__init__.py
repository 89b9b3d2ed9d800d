"""Requests from many threads on streams of their own cores."""

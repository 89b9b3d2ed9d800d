"""Quantised weights as people have them, kept in their own bits."""

"""Measurements of the running system; none of them is a test."""

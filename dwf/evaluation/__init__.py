"""Measuring robustness so that the number can be believed."""

"""Pseudo-labels: what a teacher heard, what speaks for it, and what to do with it."""

"""Candidates to recommendations."""

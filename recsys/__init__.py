"""Candidate generation and second selection with pretrained models."""

__version__ = "0.1.0"

"""Tycho re-measures the 2025 directions in efficient reasoning and interpretability."""

__version__ = "0.1.0"

"""Ranking of architectures without training."""

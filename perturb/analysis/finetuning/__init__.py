"""Strategies of fine-tuning side by side."""

"""Calibration: every embedded metric on clips whose motion and damage are known."""

"""Training of the twins and fine-tuning, on the loop."""

"""Given adapters side by side: the motion that each keeps, and the look that it gains."""

"""The one way to score: clips read once, cached, in processes."""

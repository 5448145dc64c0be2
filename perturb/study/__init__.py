"""One study: fit, sample, score."""

"""The stages of a study: fit, sample, score. Each reads its input from, and writes its output to, a run directory."""

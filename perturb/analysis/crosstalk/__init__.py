"""How metrics answer to distortions."""

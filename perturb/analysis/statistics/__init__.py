"""Statistics on plain arrays: they read and draw nothing."""

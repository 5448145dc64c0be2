"""Turn run directories into tables and figures. Never imports torch."""

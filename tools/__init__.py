"""Programs for whoever keeps the library; they are not installed."""

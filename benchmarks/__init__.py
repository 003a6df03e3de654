"""Programs that measure; each prints what it was run with."""

"""Tables and figures of many runs, drawn from their records."""

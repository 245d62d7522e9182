"""Self-contained HTML pages: the template, interactive plots and embedded pictures."""

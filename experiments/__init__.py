"""One config file per experiment of the paper."""

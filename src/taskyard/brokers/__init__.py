"""Where messages wait: the broker protocol, and a module per broker."""

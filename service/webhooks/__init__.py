"""Messages to applications: what is told, to which address, and how it gets there."""

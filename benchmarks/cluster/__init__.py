"""Episodes on a Ray cluster: the connection, the workers, and how episodes are handed out and started again."""

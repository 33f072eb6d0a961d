"""Services that the cluster replicates: the port for one's own, an example, the key-value store."""

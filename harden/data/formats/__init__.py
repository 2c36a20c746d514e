"""Log formats of others: one file each."""

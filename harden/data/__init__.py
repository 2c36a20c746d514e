"""The store: the only part that reads and writes HDF5."""

"""`features`: clips as features that were computed beforehand, in HDF5 or numpy's files."""

"""Vaults: states of VMs as immutable objects, the same bytes in a directory, at a peer and in a bucket."""

"""What a node keeps on disk: its home, the catalog, page bodies, and files that are not whole yet."""

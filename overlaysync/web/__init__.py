"""The web page of a node: what it knows and does, for a browser here or at the end of ssh -L."""

"""Finding nodes: multicast DNS, network interfaces, and which addresses of others are believed. Level 4."""

"""The network: wire messages, HTTP server and client, discovery. Level 4: the first that is async."""

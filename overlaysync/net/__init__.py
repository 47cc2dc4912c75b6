"""The network: wire messages, HTTP server and client. Level 4: the first that is async."""

"""The composition root: one node, what it shares and what it fetches. Owns tasks, clock and threads."""

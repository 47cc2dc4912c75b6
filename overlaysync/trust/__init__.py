"""Keys and signatures: who published what."""

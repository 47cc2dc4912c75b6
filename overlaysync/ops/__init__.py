"""What can be done with images: publish, assemble, verify, promote, discard, rebase. No network, no clock."""

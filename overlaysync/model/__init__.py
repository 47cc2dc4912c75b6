"""Pure values: digests, page lists, manifests, references. No disk, no network, no clock."""

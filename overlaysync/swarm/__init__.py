"""Who is asked for what: decisions only, driven by events and a clock that the caller reads."""

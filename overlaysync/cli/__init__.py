"""The command line: parse, call, print. Heavy imports stay inside commands, so that help is quick."""

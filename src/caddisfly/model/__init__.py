"""The nouns, spelled as Fly spells them. No I/O: everything here is a value or a pure function."""

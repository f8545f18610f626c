"""fly.toml: found, read with the line of everything in it, and its forms of values.

    source   the file and where in it each key stands
    keys     every key that there is, and what was meant by one that is not
    values   durations, sizes and command lines, as flyctl reads them

Not built yet: the sections and their translation to a Machine's config.
"""

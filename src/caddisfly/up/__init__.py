"""Everything that brings the platform up on a computer: settings, the supervisor, first run, doctor, units."""

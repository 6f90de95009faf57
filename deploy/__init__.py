"""Running a relay: the demo now, files for three machines later."""

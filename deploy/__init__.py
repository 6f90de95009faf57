"""Running a relay: the demo, a chain of processes on this machine, and files for three machines."""

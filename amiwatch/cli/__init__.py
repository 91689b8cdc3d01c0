"""The command line: arguments, printing, wiring and exit codes."""

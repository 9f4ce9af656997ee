"""The commands: parse, call, render. Data on stdout, everything else on stderr."""

"""What every layer stands on: configuration, errors, storage, console, random streams, stages."""

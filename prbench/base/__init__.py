"""What every room may use: errors, files, the console, random streams. Nothing here knows what is benchmarked."""

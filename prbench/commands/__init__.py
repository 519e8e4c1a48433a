"""The commands of the command line, by subject. Each imports what is heavy when it is called."""

"""What is asked of a finished fit: one kind of table a file, made without fitting again."""

"""What travels between people: splits as files, packed results, merges, submissions.

Everything that is read here may come from somebody else: it is checked, and names no code.
"""

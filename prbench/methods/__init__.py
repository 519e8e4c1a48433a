"""One algorithm a file, nothing else. Base classes that several methods share are in `prbench.training`."""

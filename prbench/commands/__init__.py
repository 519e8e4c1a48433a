"""Bodies of the commands: they parse options, call the other rooms and print. `prbench.cli` wires them together."""

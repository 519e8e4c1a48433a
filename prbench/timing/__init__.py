"""How fast prbench is on this machine: `prbench bench`. Never a part of the tests."""

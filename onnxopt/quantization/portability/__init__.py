"""What becomes of an INT8 file on a machine that is not this one: grids by target, and x86 CPUs without VNNI."""

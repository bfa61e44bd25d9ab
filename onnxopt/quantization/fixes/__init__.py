"""What lowers the error of INT8 before any layer is left in float."""

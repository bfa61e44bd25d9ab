"""Which forms are tried, what each gains and costs, which one is returned."""

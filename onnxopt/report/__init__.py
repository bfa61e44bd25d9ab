"""How a report looks to a person."""

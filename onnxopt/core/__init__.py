"""Model files, graph queries and edits, and the plain-data report: what every other package builds on."""

"""Data of the user as streams of feeds that fit the model's inputs."""

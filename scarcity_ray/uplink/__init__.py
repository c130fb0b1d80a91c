"""What happens to an update on its way up: one transform a file."""

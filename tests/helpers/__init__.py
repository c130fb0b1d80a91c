"""What scenarios of the tests import."""

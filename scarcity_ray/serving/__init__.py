"""What is done with a finished run: predicting new rows, and unlearning a client."""

"""Local training and evaluation of many clients at once: a chunk of clients is a matrix with one row of parameters per client."""

"""Local training and evaluation of many clients at once: a chunk of clients is a matrix, a row of parameters each."""

"""The commands of the program, one file for each: the options, and what the user reads at the end. `run.py` puts them together.

They import torch, the strategies and Ray themselves, so that help prints at once and errors show before Ray starts.
"""

"""What those who see a client's message could learn of its rows, for messages that several strategies send."""

from __future__ import annotations

WEIGHTS = "what weights that were trained on its rows keep of them; of few rows and few steps, inputs can be rebuilt (gradient inversion)"
GRADIENTS = "what a gradient of its rows keeps of them; of few rows and few steps, inputs can be rebuilt (gradient inversion)"
MOMENTS = (
    "class counts and the mean features of each class (where inputs are the features, their means and covariances); with fewer rows than "
    "features also the span of its features, from which rows may be found; with a survey for the bandwidth the mean input and its variance"
)

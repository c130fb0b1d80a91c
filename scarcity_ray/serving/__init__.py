"""What is done with a finished run: predicting new rows, and unlearning a client."""

from scarcity_ray.serving.predict import predict
from scarcity_ray.serving.unlearn import Unlearned, unlearn

__all__ = ["Unlearned", "predict", "unlearn"]

"""What the tests of training share."""

import pytest
import torch

from mentorlib.data.suites import generate
from mentorlib.rollout.model import load_model


@pytest.fixture(scope="module")
def pairs():
    return generate("calculator", 8, seed=1)


@pytest.fixture(scope="module")
def teacher():
    """nano with other weights: a teacher that knows little, but surely something else."""
    model, _ = load_model("nano")
    torch.manual_seed(1)
    with torch.no_grad():
        for weights in model.parameters():
            weights += 0.5 * weights.std() * torch.randn_like(weights) if weights.ndim > 1 else 0
    return model

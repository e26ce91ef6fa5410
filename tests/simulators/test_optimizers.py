import numpy as np
import pytest
import torch

from simulators.optimizers import optimizers


@pytest.mark.parametrize(
    ("spec", "theirs"),
    [
        ("sgd", lambda p: torch.optim.SGD(p, lr=0.1)),
        ("momentum", lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9)),
        ("sgd[momentum=0.5]", lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.5)),
        ("adam", lambda p: torch.optim.Adam(p, lr=0.1)),
        (
            "adam[beta1=0.5,beta2=0.9,eps=0.01]",
            lambda p: torch.optim.Adam(p, lr=0.1, betas=(0.5, 0.9), eps=0.01),
        ),
    ],
)
def test_moves_as_torch_does(spec, theirs):
    rng = np.random.default_rng(0)
    ours, parameter = np.zeros((3, 4)), torch.zeros((3, 4), dtype=torch.float64, requires_grad=True)
    optimizer, peer = optimizers.create(spec), theirs([parameter])
    memory = optimizer.start(ours.shape)
    for _ in range(20):
        gradient = rng.standard_normal(ours.shape)
        direction, memory = optimizer.direction(gradient, memory)
        ours = ours + 0.1 * direction  # uphill
        parameter.grad = torch.from_numpy(-gradient)  # torch goes downhill
        peer.step()
        np.testing.assert_allclose(ours, parameter.detach().numpy(), rtol=0, atol=1e-12)

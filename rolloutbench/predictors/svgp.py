"""A sparse variational Gaussian process in gpytorch, with the binomial likelihood of the counts.

The posterior of the logits at M inducing prompts is a Gaussian (Hensman et al., arXiv 1411.2005), moved
by a few Adam steps per update along E log Binomial(k | n, sigmoid(g)) - KL(q || q_before): streaming
variational Bayes (Bui et al., arXiv 1705.07131) with the inducing prompts kept. Before each update
q_before forgets: its covariance goes back to the prior's by a share of 1 - discount. The kernel is
`gp`'s and is not learned: median length scale, stated variance. Replicates are one batch of models. All
runs in double precision on one thread, so results repeat. Needs the extra `gp`: torch and gpytorch.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import numpy as np
from pydantic import Field
from pydantic.dataclasses import dataclass

from rolloutbench.optional import need
from rolloutbench.predictors.features import length_scales, require_features
from rolloutbench.predictors.logit import NODES, WEIGHTS, LogitPredictor, Logits
from rolloutbench.protocol import IntArray, Outcomes, Setting, State
from rolloutbench.registry import PARAMETERS


@dataclass(config=PARAMETERS)
class SVGP(LogitPredictor):
    """Stochastic variational Gaussian process on prompt features, in gpytorch (extra `gp`)."""

    inducing: Annotated[int, Field(ge=1)] = 64
    steps: Annotated[int, Field(ge=1)] = 20
    learning_rate: Annotated[float, Field(gt=0)] = 0.1
    discount: Annotated[float, Field(gt=0, le=1)] = 0.98
    length_scale: Annotated[float, Field(gt=0)] | None = None
    signal_variance: Annotated[float, Field(gt=0)] = 1.0
    prior_mean: float = 0.0

    def begin(self, setting: Setting) -> None:
        """Draw inducing prompts and set q to the prior. Raises InputError without features or gpytorch."""
        self.setting = setting
        self._features = require_features(setting, "svgp")
        self._torch, self._gpytorch = need("torch", "gp"), _gpytorch()
        replicates, pool, _ = self._features.shape
        size = min(self.inducing, pool)
        chosen = setting.rng.permuted(np.tile(np.arange(pool), (replicates, 1)), axis=1)[:, :size]
        inducing = self._features[np.arange(replicates)[:, None], chosen]
        with self._one_thread():
            self._model = self._prior_model(inducing)

    def logits(self, prompts: IntArray) -> Logits:
        """Marginal means and variances (R, B) of q."""
        with self._one_thread(), self._torch.no_grad():
            q = self._model(self._inputs(prompts))
            return Logits(q.mean.numpy().copy(), q.variance.numpy().copy())

    def update(self, outcomes: Outcomes) -> None:
        """Take a few Adam steps on this batch, from where q is, with fresh moment estimates."""
        if not outcomes.counts.any():
            return
        torch = self._torch
        with self._one_thread():
            x = self._inputs(np.where(outcomes.counts > 0, outcomes.prompts, 0))
            n, k = (torch.as_tensor(a, dtype=torch.float64) for a in (outcomes.counts, outcomes.successes))
            nodes, weights = torch.as_tensor(NODES), torch.as_tensor(WEIGHTS)
            stepped = (n > 0).any(dim=1)
            started = {name: value.detach().clone() for name, value in self._model.named_parameters()}
            before = self._forgotten()
            optimiser = torch.optim.Adam(self._model.parameters(), lr=self.learning_rate)
            for _ in range(self.steps):
                optimiser.zero_grad()
                q = self._model(x)
                g = q.mean[..., None] + q.variance.sqrt()[..., None] * nodes
                likelihood = k * q.mean - n * (torch.nn.functional.softplus(g) @ weights)
                distance = torch.distributions.kl_divergence(self._q(), before)
                (distance.sum() - likelihood.sum()).backward()
                optimiser.step()
            with torch.no_grad():  # replicates without rollouts stay as they were
                for name, value in self._model.named_parameters():
                    keep = stepped.reshape(-1, *[1] * (value.dim() - 1))
                    value.copy_(torch.where(keep, value, started[name]))

    def _prior_model(self, inducing: Any) -> Any:
        """A gpytorch model, one for each replicate in a batch, whose q is the prior."""
        torch, gpytorch = self._torch, self._gpytorch
        replicates, size, _ = inducing.shape
        scales = torch.as_tensor(length_scales(self._features, self.length_scale)).reshape(-1, 1, 1)
        batch = torch.Size([replicates])

        class Model(gpytorch.models.ApproximateGP):  # type: ignore[misc, name-defined]
            def __init__(self, mean: float, variance: float) -> None:
                q = gpytorch.variational.CholeskyVariationalDistribution(size, batch_shape=batch)
                strategy = gpytorch.variational.VariationalStrategy(
                    self, torch.as_tensor(inducing).double(), q, learn_inducing_locations=False
                )
                strategy.variational_params_initialized.fill_(1)  # else its start has noise
                super().__init__(strategy)
                self.mean, self.variance = mean, variance
                self.kernel = gpytorch.kernels.RBFKernel(batch_shape=batch)
                self.kernel.requires_grad_(False)

            def forward(self, x: Any) -> Any:
                constant = torch.full(x.shape[:-1], self.mean, dtype=x.dtype)
                return gpytorch.distributions.MultivariateNormal(constant, self.kernel(x) * self.variance)

        model = Model(self.prior_mean, self.signal_variance).double()
        model.kernel.lengthscale = scales
        return model

    def _q(self) -> Any:
        """The distribution q at the inducing prompts, in the basis in which the prior is standard."""
        parameters = self._model.variational_strategy._variational_distribution
        return self._torch.distributions.MultivariateNormal(
            parameters.variational_mean, scale_tril=parameters.chol_variational_covar.tril()
        )

    def _forgotten(self) -> Any:
        """The distribution q before this step, its covariance a little nearer to the prior's."""
        torch = self._torch
        with torch.no_grad():
            q = self._q()
            prior = torch.eye(q.mean.shape[-1], dtype=torch.float64)
            covariance = self.discount * q.covariance_matrix + (1 - self.discount) * prior
            return torch.distributions.MultivariateNormal(q.mean.clone(), covariance)

    def _inputs(self, prompts: IntArray) -> Any:
        """Features of prompts (R, B) as a tensor (R, B, d)."""
        rows = np.arange(len(prompts))[:, None]
        return self._torch.as_tensor(self._features[rows, prompts]).double()

    @contextmanager
    def _one_thread(self) -> Iterator[None]:
        threads = self._torch.get_num_threads()
        self._torch.set_num_threads(1)
        try:
            yield
        finally:
            self._torch.set_num_threads(threads)

    def state_dict(self) -> State:
        """Inducing features (R, M, d), and mean (R, M) and factor (R, M, M) of q in its own basis."""
        parameters = self._model.variational_strategy._variational_distribution
        return {
            "inducing": self._model.variational_strategy.inducing_points.numpy().copy(),
            "mean": parameters.variational_mean.detach().numpy().copy(),
            "factor": parameters.chol_variational_covar.detach().numpy().copy(),
        }

    def load_state_dict(self, state: State) -> None:
        """Restore the inducing prompts, and mean and factor of q."""
        torch = self._torch
        with self._one_thread():
            self._model = self._prior_model(state["inducing"])
        parameters = self._model.variational_strategy._variational_distribution
        with torch.no_grad():
            parameters.variational_mean.copy_(torch.as_tensor(state["mean"]))
            parameters.chol_variational_covar.copy_(torch.as_tensor(state["factor"]))


def _gpytorch() -> Any:
    """Import gpytorch without the warning of linear_operator, which still decorates with torch.jit.script."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`torch.jit.script", DeprecationWarning)
        return need("gpytorch", "gp")

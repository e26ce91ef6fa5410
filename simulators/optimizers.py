"""How a gradient moves the parameters: SGD, momentum and Adam, for R replicates side by side.

Pure functions in the manner of optax: what an optimizer remembers is passed in and out.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Annotated, TypeAlias

import numpy as np
from pydantic import BeforeValidator, Field
from pydantic.dataclasses import dataclass

from rolloutbench.protocol import FloatArray
from rolloutbench.registry import PARAMETERS, Registry

Memory: TypeAlias = tuple[FloatArray, ...]


class Optimizer(ABC):
    """Turns gradients into directions; the learning rate multiplies them."""

    @abstractmethod
    def start(self, shape: tuple[int, ...]) -> Memory:
        """Memory before the first step, for parameters of this shape."""

    @abstractmethod
    def direction(self, gradient: FloatArray, memory: Memory) -> tuple[FloatArray, Memory]:
        """Direction of the step, shaped as the gradient, and the memory after it."""


@dataclass(config=PARAMETERS, frozen=True)
class SGD(Optimizer):
    """Stochastic gradient descent, with momentum where asked for: m <- momentum m + g."""

    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.0

    def start(self, shape: tuple[int, ...]) -> Memory:
        """Memory before the first step: a velocity of 0."""
        return (np.zeros(shape),)

    def direction(self, gradient: FloatArray, memory: Memory) -> tuple[FloatArray, Memory]:
        """The velocity, which is also the memory."""
        velocity = self.momentum * memory[0] + gradient
        return velocity, (velocity,)


@dataclass(config=PARAMETERS, frozen=True)
class Adam(Optimizer):
    """Adam (arXiv 1412.6980, Algorithm 1), with bias correction."""

    beta1: Annotated[float, Field(ge=0, lt=1)] = 0.9
    beta2: Annotated[float, Field(ge=0, lt=1)] = 0.999
    eps: Annotated[float, Field(gt=0)] = 1e-8

    def start(self, shape: tuple[int, ...]) -> Memory:
        """Memory before the first step: first and second moments, and the number of steps."""
        return np.zeros(shape), np.zeros(shape), np.zeros(())

    def direction(self, gradient: FloatArray, memory: Memory) -> tuple[FloatArray, Memory]:
        """Direction m / (sqrt(v) + eps), both moments corrected for their start at 0."""
        mean, square, steps = memory
        steps = steps + 1
        mean = self.beta1 * mean + (1 - self.beta1) * gradient
        square = self.beta2 * square + (1 - self.beta2) * gradient**2
        corrected = np.sqrt(square / (1 - self.beta2**steps))
        return mean / (1 - self.beta1**steps) / (corrected + self.eps), (mean, square, steps)


optimizers: Registry[Optimizer] = Registry(
    "optimizer", {"sgd": SGD, "momentum": SGD(momentum=0.9), "adam": Adam}
)
OptimizerSpec = Annotated[Optimizer, BeforeValidator(optimizers.create)]

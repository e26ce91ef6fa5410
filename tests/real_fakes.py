"""Small stand-ins for a language model, its engine and its verifier, whose answers are known."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
import transformers

from real_runs.environment import RealRun, TrainingPool
from real_runs.models import LanguageModel
from real_runs.rollouts import Sampled
from real_runs.settings import PPO
from real_runs.tasks import Problem, Verifier
from real_runs.tasks.sorting import Sorting
from real_runs.trainer import Trainer
from rolloutbench.protocol import Budget, PromptStream, Setting

torch.set_num_threads(1)


def tiny_llama(seed=0, layers=1):
    """Random weights, large enough that probabilities are far from uniform."""
    config = transformers.LlamaConfig(
        vocab_size=12,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=layers,
        num_attention_heads=2,
        max_position_embeddings=32,
        initializer_range=0.2,
        pad_token_id=0,
        bos_token_id=None,
        eos_token_id=1,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return transformers.LlamaForCausalLM(config).eval()


def language_model(network):
    return LanguageModel(network, Path("nowhere"), 1, list, lambda tokens: " ".join(map(str, tokens)))


def logprobs_by_hand(network, prompt, response, temperature=1.0):
    """(T,) of one response, read alone and without padding."""
    logits = network(input_ids=torch.tensor([[*prompt, *map(int, response)]])).logits[0].float()
    rows = torch.log_softmax(logits / temperature, dim=-1)
    return torch.stack([rows[len(prompt) - 1 + place, token] for place, token in enumerate(response)])


class ParityVerifier(Verifier):
    """1 where the first token is even."""

    def score(self, problems, responses):
        return np.array([float(int(response.split()[0]) % 2 == 0) for response in responses])


class ScriptedEngine:
    """Responses of random tokens and lengths, as many of them right as `successes` says of their prompt."""

    def __init__(self, network, rng, successes, temperature=1.0, error=0.0):
        self.network, self.rng, self.successes = network, rng, successes
        self.temperature, self.error = temperature, error
        self.exact = error == 0

    def generate(self, prompts, counts):
        source = np.repeat(np.arange(len(prompts)), counts)
        lengths = self.rng.integers(1, 7, len(source))
        width = int(lengths.max(initial=0))
        tokens = np.zeros((len(source), width), np.int32)
        logprobs = np.zeros((len(source), width), np.float32)
        right = dict(self.successes)
        for row, (place, length) in enumerate(zip(source, lengths, strict=True)):
            prompt = tuple(prompts[place])
            tokens[row, :length] = self.rng.integers(2, 12, length)
            lucky = right[prompt] > 0
            right[prompt] -= 1
            tokens[row, 0] = 2 * self.rng.integers(1, 6) + (not lucky)
            with torch.no_grad():
                exact = logprobs_by_hand(self.network, prompt, tokens[row, :length], self.temperature)
            logprobs[row, :length] = exact.numpy() + self.error * self.rng.standard_normal(length)
        return Sampled(source, tokens, lengths, logprobs, np.ones(len(source), bool))

    def sync(self):
        pass

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        pass


class Coins(torch.nn.Module):
    """A language model whose response to prompt [2 + q] is token 1 with probability sigmoid(theta_q)."""

    def __init__(self, theta):
        super().__init__()
        self.theta = torch.nn.Parameter(torch.tensor(theta, dtype=torch.float32))
        self.device = torch.device("cpu")

    def forward(self, input_ids, attention_mask):
        asked = self.theta[input_ids[:, :1] - 2].expand(input_ids.shape)
        others = torch.full((*input_ids.shape, len(self.theta)), -torch.inf)
        return SimpleNamespace(
            logits=torch.cat([torch.zeros_like(asked)[..., None], asked[..., None], others], 2)
        )


class CoinEngine:
    """Tosses the coins of the network as it is now."""

    exact = True

    def __init__(self, network, rng):
        self.network, self.rng, self.tossed = network, rng, 0

    def generate(self, prompts, counts):
        source = np.repeat(np.arange(len(prompts)), counts)
        self.tossed += len(source)
        owner = [prompts[place][0] - 2 for place in source]
        p = torch.sigmoid(self.network.theta).detach().numpy()[np.array(owner, dtype=np.int64)]
        tokens = (self.rng.random(len(source)) < p).astype(np.int32)[:, None]
        logprobs = np.log(np.where(tokens[:, 0] == 1, p, 1 - p)).astype(np.float32)[:, None]
        return Sampled(source, tokens, np.ones(len(source), np.int64), logprobs, np.ones(len(source), bool))

    def sync(self):
        pass

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        pass


class CoinVerifier(Verifier):
    """1 for token 1."""

    def score(self, problems, responses):
        return np.array([float(response == "1") for response in responses])


def real_run(
    network,
    engine,
    verifier,
    prompts,
    estimator,
    aggregation="prompt",
    budget=None,
    reusable=0,
    of=RealRun,
    temperature=1.0,
    **trainer,
):
    """An environment on `prompts` (token ids), with a trainer of these parameters."""
    setting = Setting(
        budget or Budget(len(prompts), 8 * len(prompts)),
        estimator,
        "rollout" if aggregation == "token" else aggregation,
        replicates=1,
        pool_size=len(prompts),
        rng=np.random.default_rng(7),
    )
    model = language_model(network)
    return of(
        setting,
        PromptStream(len(prompts), 1, np.random.SeedSequence(5)),
        TrainingPool([Problem(str(prompt), "") for prompt in prompts], prompts, np.full(len(prompts), 0.5)),
        Sorting(),
        model,
        engine,
        verifier,
        Trainer(model, PPO(**trainer), temperature, engine.exact),
        aggregation,
        reusable,
    )

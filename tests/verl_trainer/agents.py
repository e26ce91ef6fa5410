"""Agents for the trainer's tests: sessions whose rewards only prompt and turn decide, in verl's own form."""

import numpy as np
import torch
import transfer_queue as tq
from verl.utils.tensordict_utils import list_of_dict_to_tensordict


class Agents:
    """Stand where verl's AgentLoopManagerTQ stands: n sessions of each prompt by `__rollout_n__`.

    A session may fail (`lost`), have several `outputs`, or a reward of NaN (`unverified`), each by chance.
    Rewards are drawn by `probability` (Q,) from a stream of the prompt's own.
    """

    def __init__(self, probability, *, lost=0.0, outputs=1, unverified=0.0, ends=()):
        self.probability, self.lost, self.outputs, self.unverified = probability, lost, outputs, unverified
        self.ends = ends
        self.rng = [np.random.default_rng((7, q)) for q in range(len(probability))]
        self.asked = []

    def generate_sequences(self, batch):
        for i in range(len(batch)):
            uid, q, n = (batch[name][i] for name in ("uid", "index", "__rollout_n__"))
            uid, q, n = getattr(uid, "data", uid), int(getattr(q, "data", q)), int(n)
            self.asked.append((q, n))
            rng = self.rng[q]
            came = [number for number in range(n) if q not in self.ends and rng.random() >= self.lost]
            keys, fields, tags = [], [], []
            for number in came:
                reward = float(rng.random() < self.probability[q])
                reward = np.nan if rng.random() < self.unverified else reward
                for index in range(1 + int(rng.integers(self.outputs))):
                    keys.append(f"{uid}_{number}_{index}")
                    fields.append(row(rng, uid, q, reward))
                    tags.append(
                        {"status": "success", "seq_len": len(fields[-1]["input_ids"]), "global_steps": 1}
                        | {"min_global_steps": 0, "max_global_steps": 0}
                    )
            if keys:
                tq.kv_batch_put(
                    keys=keys, partition_id="train", fields=list_of_dict_to_tensordict(fields), tags=tags
                )
            status = "finished" if len(came) == n else "failure"
            tq.kv_put(key=uid, partition_id="train", tag={"status": status})


def row(rng, uid, q, reward):
    """One output: 2 tokens of prompt, 2 to 5 of response, one of them masked where there are 5."""
    length = int(rng.integers(2, 6))
    mask = torch.ones(length, dtype=torch.int64)
    mask[1] = int(length != 5)
    scores = torch.zeros(length)
    scores[-1] = reward
    logprobs = torch.from_numpy(np.log(rng.uniform(0.2, 1.0, length))).float()
    input_ids = torch.arange(2 + length)
    return {
        "uid": uid,
        "index": q,
        "prompts": input_ids[:2],
        "responses": input_ids[2:],
        "input_ids": input_ids,
        "attention_mask": torch.ones_like(input_ids),
        "position_ids": torch.arange(2 + length),
        "response_mask": mask,
        "loss_mask": mask,
        "rm_scores": scores,
        "rollout_log_probs": logprobs,
        "old_log_probs": logprobs + 0.1,
        "ref_log_prob": logprobs - torch.from_numpy(rng.uniform(0.0, 0.5, length)).float(),
        "num_turns": 2,
        "extra_fields": {"reward_extra_info": {"right": reward, "length": float(length)}},
    }

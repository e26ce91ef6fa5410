"""TRL's GRPOTrainer with an allocator: a tiny Llama learns to sort digits, on a CPU, in about a minute.

    python examples/trl_sorting.py OUT
    python -m torch.distributed.run --nproc_per_node 2 examples/trl_sorting.py OUT    # in two processes

Three allocators train with two seeds each; `rolloutbench show OUT/study` then compares them.
"""

import sys

import numpy as np
import torch
from datasets import Dataset
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from trl import GRPOConfig

from rolloutbench.integrations.trl import AllocatedGRPOTrainer
from rolloutbench.integrations.trl_study import RecordRun

torch.set_num_threads(1)  # a model so small only waits on more
OUT = sys.argv[1] if len(sys.argv) > 1 else "out/trl_sorting"
WORDS = {word: place for place, word in enumerate(["<pad>", "<end>", *"0123456789="])}


def problems(count, seed):
    """Prompts such as `4821=`, whose answer is `1248`."""
    rng = np.random.default_rng(seed)
    digits = ["".join(rng.choice(list("0123456789"), n)) for n in rng.integers(1, 7, count)]
    return [{"prompt": f"{text}=", "answer": "".join(sorted(text))} for text in digits]


def correct(completions, answer, **_):
    """The reward: 1 for the sorted digits."""
    return [float(said == right) for said, right in zip(completions, answer, strict=True)]


def new_tokenizer():
    """A tokenizer of single characters."""
    characters = Tokenizer(models.WordLevel(WORDS, unk_token="<pad>"))
    characters.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    characters.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=characters, pad_token="<pad>", eos_token="<end>", padding_side="left"
    )


def new_model():
    """A Llama that has seen some examples: it sorts some words now and then."""
    torch.manual_seed(0)
    size = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    special = {"pad_token_id": 0, "bos_token_id": None, "eos_token_id": 1}
    model = LlamaForCausalLM(
        LlamaConfig(vocab_size=len(WORDS), max_position_embeddings=64, **size, **special)
    )
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
    for step in range(80):
        texts = [
            [*(WORDS[c] for c in row["prompt"] + row["answer"]), 1] for row in problems(128, 1000 + step)
        ]
        tokens = torch.nn.utils.rnn.pad_sequence(list(map(torch.tensor, texts)), batch_first=True)
        labels = tokens.masked_fill(tokens == 0, -100)
        model(input_ids=tokens, attention_mask=tokens > 0, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model


for seed in (0, 1):
    for allocator in ("uniform", "vip[predictor=beta]", "dapo"):
        trainer = AllocatedGRPOTrainer(
            new_model(),
            correct,
            args=GRPOConfig(
                f"{OUT}/{allocator}-{seed}",
                per_device_train_batch_size=16,
                gradient_accumulation_steps=4,  # 64 rollouts a step ...
                num_generations=8,  # ... 8 of a prompt on average, so 8 prompts
                max_completion_length=8,
                max_steps=18,
                learning_rate=1e-3,
                eval_strategy="steps",
                eval_steps=6,
                eval_on_start=True,
                per_device_eval_batch_size=64,
                save_strategy="no",
                report_to=[],
                use_cpu=True,
                bf16=False,
                seed=seed,
            ),
            train_dataset=Dataset.from_list(problems(200, 1)),
            eval_dataset=Dataset.from_list(problems(64, 2)),
            processing_class=new_tokenizer(),
            allocator=allocator,
        )
        trainer.add_callback(RecordRun(trainer, f"{OUT}/study", scenario="sorting", replicate=seed))
        trainer.train()

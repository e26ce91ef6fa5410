#!/bin/sh
# GRPO on GSM8K with verl 0.9.1 and an allocator: sh examples/verl/gsm8k.sh 'vip[predictor=beta]'
set -eu
python -m verl.trainer.main_ppo \
    trainer.v1.trainer_mode=rolloutbench \
    "+trainer.v1.rolloutbench.allocator='${1:-mopps}'" \
    algorithm.adv_estimator=grpo \
    data.train_files="$HOME/data/gsm8k/train.parquet" \
    data.val_files="$HOME/data/gsm8k/test.parquet" \
    data.train_batch_size=256 \
    data.max_prompt_length=512 \
    data.max_response_length=1024 \
    actor_rollout_ref.model.path=Qwen/Qwen2.5-1.5B-Instruct \
    actor_rollout_ref.actor.optim.lr=1e-6 \
    actor_rollout_ref.actor.ppo_mini_batch_size=256 \
    actor_rollout_ref.actor.use_dynamic_bsz=true \
    actor_rollout_ref.actor.loss_agg_mode=seq-mean-token-mean \
    actor_rollout_ref.rollout.name=vllm \
    actor_rollout_ref.rollout.tensor_model_parallel_size=1 \
    actor_rollout_ref.rollout.n=8 \
    actor_rollout_ref.rollout.gpu_memory_utilization=0.6 \
    trainer.logger='[console]' \
    trainer.n_gpus_per_node=8 \
    trainer.total_epochs=3 \
    trainer.save_freq=50 \
    trainer.test_freq=10

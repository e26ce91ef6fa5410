"""An allocator in a loop of one's own: three calls, no torch; here a table of success chances is trained."""

import numpy as np

from rolloutbench import Coach

rng = np.random.default_rng(0)
skill = rng.normal(-1, 2, 500)  # of each prompt: the logit of its chance of success
before = (1 / (1 + np.exp(-skill))).mean()
coach = Coach("vip[predictor=beta]", prompts=16, rollouts=128, pool_size=len(skill), estimator="rloo")
for _ in range(300):
    while (ask := coach.ask()) is not None:  # one stage or several
        chance = 1 / (1 + np.exp(-skill[ask.each]))
        rewards = (rng.random(len(chance)) < chance).astype(float)
        coach.tell(rewards, [(int(q), float(r)) for q, r in zip(ask.each, rewards, strict=True)])
    batch = coach.batch()  # rollouts, advantages, and what each counts
    for (q, reward), advantage, share in zip(
        batch.rollouts, batch.advantages, batch.shares("rollout"), strict=True
    ):
        skill[q] += 40 * share * advantage * (reward - 1 / (1 + np.exp(-skill[q])))
after = (1 / (1 + np.exp(-skill))).mean()
print(f"success {before:.3f} -> {after:.3f}, {coach.bill()['generated']:.0f} rollouts")

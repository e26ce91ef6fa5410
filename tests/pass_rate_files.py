"""The same prompts written in every way in which people keep pass rates."""

import gzip
import json

import pandas as pd


def as_csv(path, separator=",", **columns):
    pd.DataFrame(columns).to_csv(path, index=False, sep=separator)


def as_lines(path, rows):
    text = "\n".join(json.dumps(row) for row in rows)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())


def rewards(k, n):
    return [1.0] * k + [0.0] * (n - k)


def of_rollouts(ks, n):
    """One row a rollout: names and rewards."""
    return [(f"q{i}", reward) for i, k in enumerate(ks) for reward in rewards(k, n)]


def written(folder, ks, n):
    """Files of len(ks) prompts, k of n rollouts each: path and how it must be read, by name."""
    names, rates = [f"q{i}" for i in range(len(ks))], [k / n for k in ks]
    rows = [{"id": name, "pass_rate": rate, "trials": n} for name, rate in zip(names, rates, strict=True)]
    lists = [{"prompt_id": name, "rewards": rewards(k, n)} for name, k in zip(names, ks, strict=True)]
    long = of_rollouts(ks, n)
    folder.mkdir(exist_ok=True)
    as_csv(folder / "ok.csv", id=names, pass_rate=rates, trials=n)
    as_csv(folder / "ok.csv.gz", id=names, pass_rate=rates, trials=n)
    as_csv(folder / "ok.tsv", "\t", id=names, pass_rate=rates, trials=n)
    as_csv(folder / "padded.csv", **{" id": names, " pass_rate ": rates, "trials ": n})
    as_csv(folder / "percent.csv", id=names, pass_rate=[100 * rate for rate in rates], trials=n)
    as_csv(folder / "sign.csv", id=names, pass_rate=[f"{100 * rate} %" for rate in rates], trials=n)
    as_csv(folder / "fraction.csv", id=names, pass_rate=[f"{k}/{n}" for k in ks])
    as_csv(folder / "counts.csv", id=names, correct=ks, trials=n)
    as_csv(folder / "text-lists.csv", id=names, rewards=[json.dumps(rewards(k, n)) for k in ks])
    as_csv(folder / "long.csv", prompt_id=[name for name, _ in long], reward=[int(r) for _, r in long])
    as_csv(folder / "truths.csv", uid=[name for name, _ in long], passed=[bool(r) for _, r in long])
    (folder / "ok.json").write_text(json.dumps(rows))
    as_lines(folder / "ok.jsonl", rows)
    as_lines(folder / "lines.json", rows)
    as_lines(folder / "ok.jsonl.gz", rows)
    as_lines(folder / "lists.jsonl", lists)
    as_lines(folder / "long.jsonl", [{"id": name, "reward": reward == 1} for name, reward in long])
    pd.DataFrame(rows).to_parquet(folder / "ok.parquet")
    pd.DataFrame(lists).to_parquet(folder / "lists.parquet")
    nested = pd.DataFrame({"id": names, "extra_info": [{"pass_rate": rate, "n": n} for rate in rates]})
    nested.to_parquet(folder / "nested.parquet")
    read = {
        "percent.csv": {"trials": "trials", "unit": "percent"},
        "counts.csv": {"column": "correct", "trials": "trials", "unit": "count"},
        "truths.csv": {"column": "passed"},
        "nested.parquet": {"column": "extra_info.pass_rate", "trials": "extra_info.n"},
    }
    own = {"fraction.csv", "text-lists.csv", "long.csv", "lists.jsonl", "long.jsonl", "lists.parquet"}
    return {
        path.name: (path, read.get(path.name, {} if path.name in own else {"trials": "trials"}))
        for path in sorted(folder.iterdir())
    }

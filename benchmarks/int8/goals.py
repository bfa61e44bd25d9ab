"""What INT8 is to reach on each model of the zoo, and what a run of ``benchmarks.int8_peers`` found."""

from collections.abc import Sequence

from benchmarks.findings import Condition, Data, Finding, Goal, drop, together


def speed_up(row: Data) -> float:
    """How many times as fast as fp32 the model is."""
    return 1 / row["judgement"]["latency"]["ratio"]


def disagreement(row: Data) -> float:
    """Share of the samples on which the model decides otherwise than fp32."""
    return row["judgement"]["agreement"]["drop"]


def peers_judged(entry: Data) -> list[Data]:
    """The rows of the peers whose models run."""
    return [row for row in entry["rows"] if row["peer"] is not None and row["judgement"] is not None]


def _sqnr(least: float) -> Condition:
    def check(_: Data, row: Data) -> Finding:
        found = row["judgement"]["sqnr_db"] or 0.0
        return Finding(found >= least, f"SQNR {found:.1f} of {least:g} dB")

    return check


def _speed(least: float) -> Condition:
    def check(_: Data, row: Data) -> Finding:
        return Finding(speed_up(row) >= least, f"{speed_up(row):.2f}x of {least:g}x")

    return check


def _score(least: float) -> Condition:
    def check(_: Data, row: Data) -> Finding:
        found = row["judgement"]["comparison"]["candidate_score"]
        return Finding(found >= least, f"score {found:.3f} of {least:g}")

    return check


def _not_slower(_: Data, row: Data) -> Finding:
    return Finding(row["judgement"]["latency"]["decision"] != "slower", f"{speed_up(row):.2f}x, not below fp32")


def _half_the_disagreement(entry: Data, row: Data) -> Finding:
    rivals = [r for r in peers_judged(entry) if r["judgement"]["latency"]["decision"] == "faster"]
    found = disagreement(row)
    if not rivals:
        return Finding(True, f"disagreement {found:.3f}, no peer is faster than fp32")
    best = min(rivals, key=disagreement)
    limit = disagreement(best) / 2
    return Finding(found <= limit, f"disagreement {found:.3f} of at most {limit:.4f} (half of {best['method']})")


def _faster_than_best_peer(entry: Data, row: Data) -> Finding:
    pairs = {p["role"]: p for p in entry["pairs"] if p["method"] == row["method"]}
    pair = pairs.get("fastest", pairs.get("most accurate"))
    if pair is None:
        return Finding(True, "no peer made a model that runs")
    latency = pair["latency"]
    found = f"{1 / latency['ratio']:.2f}x as fast as {pair['peer']}, to be above 1"
    return Finding(latency["decision"] == "faster", found)


GOALS: dict[str, tuple[Condition, ...]] = {
    "effnet": (_sqnr(18), _half_the_disagreement, _speed(2.1)),
    "minilm": (_sqnr(22.5), _speed(2.5), drop(0.01)),
    "vad": (_score(0.95), _not_slower),
    "orient": (_score(0.965), _faster_than_best_peer),
    "resnet18": (_speed(3.35),),
    "mobilenet_v2": (_speed(2.1),),
    "vit_s": (_speed(2.3),),
}


def check_goals(entries: Sequence[Data]) -> list[Goal]:
    """Each goal with what was found; the whole zoo last."""
    found: list[Goal] = []
    ours = [(entry, row) for entry in entries for row in entry["rows"] if row["peer"] is None]
    for entry, row in ours:
        conditions = GOALS.get(entry["id"], ())
        if not conditions:
            continue
        if row["judgement"] is None:
            found.append((entry["id"], row["method"], Finding(False, "no file")))
            continue
        found.append((entry["id"], row["method"], together([condition(entry, row) for condition in conditions])))
    judged = [(entry, row) for entry, row in ours if row["judgement"] is not None]
    slower = [e["id"] for e, row in judged if row["judgement"]["latency"]["decision"] == "slower"]
    tasks = [(e, row) for e, row in judged if e["metric"] is not None]
    over = [e["id"] for e, row in tasks if row["judgement"]["comparison"]["drop"] > row["max_drop"] + 1e-9]
    text = f"{_count(slower)} slower than fp32, {_count(over)} over the budget on unseen samples"
    text += f", of {len(judged)} models written"
    found.append(("whole zoo", "onnxopt", Finding(not slower and not over, text)))
    return found


def _count(names: Sequence[str]) -> str:
    return f"{len(names)} ({', '.join(names)})" if names else "0"

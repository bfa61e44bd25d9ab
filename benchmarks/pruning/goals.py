"""What pruning is to reach on each model of the zoo, and what a run of ``benchmarks.prune`` found."""

from collections.abc import Sequence

from benchmarks.findings import Condition, Data, Finding, Goal, drop, together

NEAR = 0.02
"""What a measured latency may lie beside its goal."""
COUNTED = 0.005
"""What a counted share may lie above its goal."""
LONGEST_S, MOST_MB = 600, 4096


def kept_accuracy(row: Data) -> float:
    """The score over that of the input model."""
    comparison = row["judgement"]["comparison"]
    return comparison["candidate_score"] / comparison["reference_score"]


def latency_ratio(row: Data) -> float:
    """The latency over that of the input model."""
    return row["judgement"]["latency"]["ratio"]


def _keeps(least: float) -> Condition:
    def check(entry: Data, row: Data) -> Finding:
        found = kept_accuracy(row)
        return Finding(found >= least, f"keeps {100 * found:.1f} of at least {100 * least:g} % of fp32")

    return check


def _better_than_peers(entry: Data, row: Data) -> Finding:
    rivals = [r for r in entry["rows"] if r["peer"] and r["goal"] == row["goal"] and r["judgement"] is not None]
    if not rivals:
        return Finding(True, "no peer made a model that runs")
    best = max(rivals, key=kept_accuracy)
    text = f"best peer keeps {100 * kept_accuracy(best):.1f} % ({best['method'].split(' --')[0]})"
    return Finding(kept_accuracy(row) > kept_accuracy(best), text)


def _counted(entry: Data, row: Data) -> Finding:
    kind, ratio = row["goal"]["kind"], row["goal"]["ratio"]
    found = row["shares"][kind]
    return Finding(found <= ratio + COUNTED, f"{kind} {found:.3f} of at most {ratio:g}")


def _measured(entry: Data, row: Data) -> Finding:
    ratio, found = row["goal"]["ratio"], latency_ratio(row)
    return Finding(abs(found - ratio) <= NEAR, f"latency {found:.3f} of {ratio:g} +- {NEAR:g}")


def _not_above(entry: Data, row: Data) -> Finding:
    ratio, found = row["goal"]["ratio"], latency_ratio(row)
    return Finding(found <= ratio + NEAR, f"latency {found:.3f} of at most {ratio:g} + {NEAR:g}")


def _speed(least: float) -> Condition:
    def check(entry: Data, row: Data) -> Finding:
        found = 1 / latency_ratio(row)
        return Finding(found >= least, f"{found:.2f}x of {least:g}x")

    return check


def _agreement(entry: Data, row: Data) -> Finding:
    return Finding(True, f"agrees with fp32 on {100 * row['judgement']['agreement']['candidate_score']:.1f} %")


def _cheap(entry: Data, row: Data) -> Finding:
    wall_s, peak_mb = row["made"]["wall_s"], row["made"]["peak_rss_mb"]
    text = f"made in {wall_s:.0f} of {LONGEST_S} s and {peak_mb:.0f} of {MOST_MB} MB"
    return Finding(wall_s < LONGEST_S and peak_mb < MOST_MB, text)


GOALS: dict[tuple[str, str, float], tuple[Condition, ...]] = {
    ("clutter_resnet", "macs", 0.7): (_counted, _keeps(0.97), _better_than_peers),
    ("clutter_resnet", "macs", 0.5): (_counted, _keeps(0.94), _better_than_peers),
    ("clutter_mobilenet", "macs", 0.75): (_counted, _keeps(0.98), _better_than_peers),
    ("clutter_mobilenet", "macs", 0.5): (_counted, _keeps(0.90), _better_than_peers),
    ("resnet50", "latency", 0.7): (_measured, _cheap),
    ("resnet50", "params", 0.7): (_counted, _speed(1.4), _cheap),
    ("mobilenet_v2", "latency", 0.7): (_measured,),
    ("minilm", "latency", 0.75): (_not_above, drop(0.03)),
    ("effnet", "latency", 0.8): (_not_above, _agreement),
}


def check_goals(entries: Sequence[Data]) -> list[Goal]:
    """Each goal with what was found."""
    found: list[Goal] = []
    for entry in entries:
        for row in (row for row in entry["rows"] if row["peer"] is None):
            conditions = GOALS[entry["id"], row["goal"]["kind"], row["goal"]["ratio"]]
            if row["judgement"] is None:
                found.append((entry["id"], row["method"], Finding(False, row["error"])))
                continue
            found.append((entry["id"], row["method"], together([condition(entry, row) for condition in conditions])))
    return found

"""The JSON record of a run: what was measured, against which ceilings, where; written anew after every case."""

from __future__ import annotations

import re
import socket
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tmor_fast.benchmark.allocator import DEFAULT
from tmor_fast.benchmark.case import Case, Contender
from tmor_fast.benchmark.turns import Lane

SCHEMA = "tmor_fast.benchmark"
SCHEMA_VERSION = 1

Record = dict[str, Any]

# A path from the root, where a word could begin; its last part is kept.
_PATH = re.compile(r"(?<![\w.:/])~?/(?:[^\s/'\"<>|:,;()\[\]]+/)*([^\s/'\"<>|:,;()\[\]]+)")


def scrub(value: Any) -> Any:
    """`value` without what says whose machine it was: of absolute paths the last part stays, host names go."""
    if isinstance(value, str):
        host = socket.gethostname()
        text = _PATH.sub(r"…/\1", value)
        return re.sub(rf"\b{re.escape(host)}\b", "HOST", text) if len(host) > 2 else text
    if isinstance(value, Mapping):
        return {str(key): scrub(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [scrub(item) for item in value]
    return value


def save(path: Path, record: Record) -> None:
    """Write the record, whole or not at all."""
    from tmor_fast.evaluation.saving import save_json  # brings torch, which a listing of claims can do without

    save_json(path, scrub(record))


def measurement(lane: Lane, contender: Contender) -> Record:
    """What is recorded of one contender under one allocator."""
    entry: Record = {
        "contender": contender.name,
        "role": contender.role,
        "headline": contender.headline,
        "allocator": lane.allocator,
        "precision": contender.precision,
        "environment": dict(contender.environment),
        "note": contender.note,
        "status": lane.status,
        "reason": lane.reason,
        "seconds": lane.statistics.to_dict() if lane.samples else None,
        "turn_medians": lane.turns,
    }
    if lane.status != "ok":
        return entry
    facts = lane.facts
    return entry | {
        "setup_seconds": facts["setup_seconds"],
        "threads": facts["threads"],
        "remarks": facts["notes"],
        "memory": {"peak_bytes": facts["peak_bytes"], "method": facts["method"]},
        "page_faults": facts["page_faults"],
        "flops": contender.operations if contender.flops is not None else facts.get("flops"),
        "bytes": contender.bytes if contender.bytes is not None else facts.get("bytes"),
        "counted": lane.count,
    }


def case_record(case: Case, lanes: Sequence[Lane], facts: Mapping[str, Mapping[str, Any]]) -> Record:
    """What is recorded of one case; `facts` are those of its check."""
    entries = [measurement(lane, case.contender(lane.contender)) for lane in lanes]
    return {
        "name": case.name,
        "sizes": dict(case.sizes),
        "amount": None if case.amount is None else list(case.amount),
        "measurements": entries,
        "floors": [{**asdict(floor), "seconds": None} for floor in case.floors],
        "check": {name: dict(values) for name, values in facts.items()},
        "summary": summary(entries),
    }


def summary(entries: Sequence[Record]) -> Record:
    """Ours against the peers: ours with the default allocator, the better of all peers under all allocators.

    `ratio` is their time by ours, above 1 where ours is faster; None where one of both is missing.
    """
    finished = [entry for entry in entries if entry["status"] == "ok"]
    ours = [entry for entry in finished if entry["role"] == "ours" and entry["allocator"] == DEFAULT.name]
    ours.sort(key=lambda entry: not entry["headline"])
    peers = sorted((e for e in finished if e["role"] == "peer"), key=lambda entry: entry["seconds"]["median"])
    plain = [entry for entry in peers if entry["allocator"] == DEFAULT.name]
    own, best = (ours[0] if ours else None), (peers[0] if peers else None)

    def ratio(peer: Record | None) -> float | None:
        return peer["seconds"]["median"] / own["seconds"]["median"] if own and peer else None

    return {
        "ours": own["contender"] if own else None,
        "best_peer": best["contender"] if best else None,
        "best_peer_allocator": best["allocator"] if best else None,
        "ratio": ratio(best),
        "ratio_default_allocator": ratio(plain[0] if plain else None),
    }


def complete(record: Record) -> Record:
    """Fill in what follows from the ceilings: rates, shares, seconds of the floors. Returns the record."""
    ceilings = record.get("ceilings") or {}
    for claim in record["claims"]:
        for case in claim["cases"]:
            for floor in case["floors"]:
                floor["seconds"] = _floor_seconds(floor, ceilings)
            for entry in case["measurements"]:
                if entry["status"] == "ok":
                    _shares(entry, ceilings)
    return record


def _floor_seconds(floor: Record, ceilings: Mapping[str, Any]) -> float | None:
    """The longer of computing and moving; None where a ceiling that it needs is not known."""
    needs = [(floor["flops"], floor["precision"], "flops_per_second")]
    if floor["bytes"]:
        needs.append((floor["bytes"], "copy", "bytes_per_second"))
    rates = [(ceilings.get(ceiling) or {}).get(rate) for _, ceiling, rate in needs]
    if not all(rates):
        return None
    return float(max(amount / rate for (amount, _, _), rate in zip(needs, rates, strict=True)))


def _shares(entry: Record, ceilings: Mapping[str, Any]) -> None:
    seconds = entry["seconds"]["median"]
    for amount, rate, ceiling in (
        ("flops", "flops_per_second", entry["precision"]),
        ("bytes", "bytes_per_second", "copy"),
    ):
        done = entry[amount]
        entry[rate] = done / seconds if done is not None and seconds > 0 else None
        most = (ceilings.get(ceiling) or {}).get(rate)
        entry[f"share_of_{ceiling if amount == 'bytes' else 'compute'}"] = (
            entry[rate] / most if most and entry[rate] is not None else None
        )

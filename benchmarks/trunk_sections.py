"""The sections of docs/benchmarks.md about the trunk's server."""

from __future__ import annotations

from typing import Any

from page_parts import percent, table, times

Result = dict[str, Any]


def training(r: Result) -> str:
    """Return the section of trunk_training.py."""
    names = {
        "whole": "the unsplit model",
        "split": "one client through the server",
        "one_after_another": f"{r['clients']} clients, one after another",
        "at_once": f"{r['clients']} clients at once",
    }
    rows = []
    for key, name in names.items():
        seconds = r["seconds"][key]
        examples = r["examples"] * (1 if key in ("whole", "split") else r["clients"])
        rows.append(
            [
                name,
                f"{seconds['median']:.1f} ({seconds['min']:.1f} to {seconds['max']:.1f})",
                f"{examples / seconds['median']:.2f}",
            ]
        )
    targets = r["targets"]
    return (
        f"{r['model']} on {r['device']}, {r['data']}, {r['examples']} examples per client, {r['examples_per_step']} per step; "
        f"k = {r['bottom']}, {r['codec']} states, mutual TLS over loopback. Client and server are processes that share the "
        f"cores of one machine. One client through the server takes **{times(r['split_over_whole'])}** the unsplit model's "
        f"time (target: at most {targets['split_over_whole']:g}). {r['clients']} clients at once take "
        f"{times(1 / r['at_once_speedup'])} what they take one after another: the server finishes "
        f"**{times(r['at_once_speedup'])}** the samples a second (target: at least {targets['at_once_speedup']:g} on "
        f"{r['device']}).\n\n" + table(["", "seconds (range)", "examples/s"], rows)
    )


def codecs(r: Result) -> str:
    """Return the section of codec_quality.py."""
    rows = []
    for data, found in r["data"].items():
        for codec, figures in found["codecs"].items():
            low, high = figures["interval_95"]
            rows.append(
                [
                    data,
                    codec,
                    f"{figures['gigabytes']:.2f}",
                    f"{figures['ndcg@10']:.4f} ({figures['ndcg@10'] / (1 + figures['relative_difference']):.4f})",
                    f"{100 * figures['relative_difference']:+.2f}% ({100 * low:+.2f} to {100 * high:+.2f})",
                    ", ".join(f"{100 * each:+.2f}%" for each in figures["of_each_seed"]),
                ]
            )
    wide = [
        f"{codec} on {data}"
        for data, found in r["data"].items()
        for codec, figures in found["codecs"].items()
        if figures["interval_95"][0] < -r["target"]
    ]
    unproven = (
        f" The interval goes beyond that for {', '.join(wide)}: there the estimate meets the target, and no proof."
        if wide
        else ""
    )
    users = ", ".join(f"{found['users']:,} users of {data}" for data, found in r["data"].items())
    return (
        f"The same federated runs through a trunk's server, k = {r['bottom']}, with each codec in training, validation and "
        f"test: {users}. NDCG@10 relative to float32 of the same seeds; each user counts with the mean over them, and a paired "
        f"bootstrap over users gives the interval of 95%. Target: int8 halves the bytes of bfloat16 and costs less than "
        f"{percent(r['target'])}.{unproven}\n\n"
        + table(["data", "codec", "GB on the wire", "NDCG@10 (float32)", "against float32", "of each seed"], rows)
    )


def costs(r: Result) -> str:
    """Return the section of split_costs.py."""
    whole = r["whole"]
    rows = [["whole", "", f"{whole['ndcg@10']:.4f}", "", "", "1.0", _memory(whole)]]
    for one in r["choices"]:
        low, high = one["interval_95"]
        rows.append(
            [
                str(one["bottom"]),
                one["codec"],
                f"{one['ndcg@10']:.4f}",
                f"{100 * one['relative_difference']:+.2f}% ({100 * low:+.2f} to {100 * high:+.2f})",
                f"{one['gigabytes']:.2f}",
                f"{one['train_seconds'] / whole['train_seconds']:.1f}",
                _memory(one),
            ]
        )
    return (
        f"{r['model']} as encoder backbone on {r['data']}: {r['rounds']} rounds with {r['examples']:,} examples, {r['users']:,} test users, one "
        "seed, the same for all rows. Five clients in one process, the trunk in another one on the same machine. GB: of training, validation and "
        "test. Time: of training, by that of the whole model, one run each, without a network's latency; other programs ran beside, so that nothing "
        "below a half is told apart. Memory: of the process of all five clients at its highest; in brackets what it has before it loads data and "
        "model. This model is small (90 MB): what frames on their way take is more than what its layers do. [What a client of a larger one "
        "saves](plan.md).\n\n"
        + table(["k", "codec", "NDCG@10", "against whole [95%]", "GB on the wire", "time", "memory (MB)"], rows)
    )


def _memory(figures: dict[str, Any]) -> str:
    return f"{figures['peak_memory_bytes'] / 1e6:,.0f} ({figures['memory_before_bytes'] / 1e6:,.0f})"


def soak(r: Result) -> str:
    """Return the section of trunk_soak.py."""
    memory = r["memory"]
    first, last = (memory["floor_megabytes"][key] for key in ("first", "last"))
    rows = [[str(point["second"]), f"{point['megabytes']:.0f}", str(point["sessions"])] for point in memory["curve"]]
    return (
        f"{r['clients']} clients connected, {r['active']} of them training, for {r['seconds'] / 60:.0f} minutes. Every "
        f"{r['seconds_between_kills']:.0f} seconds a process of clients drawn at random got SIGKILL and was started again: "
        f"{r['kills']} kills ended {r['sessions_killed']} sessions, {r['killed_in_training']} of them of a client in the midst of "
        f"its training. In {r['rounds']} rounds with {r['steps']:,} steps, {r['rows_compared']:,} rows at the server were "
        f"compared with a computation without a server: **{r['wrong_rows']} wrong**, the farthest off by {r['farthest_row']:.0e} "
        f"of what training has changed. **{r['stuck_streams']} streams were stuck**: when all had left, the server had "
        f"{r['left_at_the_end']['sessions']} sessions and {r['left_at_the_end']['requests']} requests. A client whose "
        f"predecessor had just been killed held all passes that it may, and did a step, within {r['fresh_client_seconds']:.2f} "
        "seconds.\n\n"
        f"Resident memory of the server from second {memory['judged_from_second']:.0f} on: a straight line through all samples "
        f"(one a second) grows by **{percent(memory['growth_share'])}** of the median, {memory['median_bytes'] / 1e6:.0f} MB; "
        f"the least that was held grew by {percent(last / first - 1)}, from {first:.0f} MB in the first fifth of that "
        "time to "
        f"{last:.0f} MB in the last. What is above is the batch being computed, which depends on how many clients wait together.\n\n"
        + table(["second", "memory (MB)", "sessions"], rows[:: -(-len(rows) // 20)])
    )


def fuzz(r: Result) -> str:
    """Return the section of trunk_fuzz.py."""
    parser, server, good = r["parser"], r["server"], r["server"]["well_behaved"]
    ways = sorted(set(parser["ways"]) | set(server["ways"]))
    rows = [
        [way, *(f"{part['ways'][way]:,}" if way in part["ways"] else "" for part in (parser, server))] for way in ways
    ]
    statuses = ", ".join(f"{count:,} {status}" for status, count in server["statuses"].items())
    wrong = (
        f"; **unexpected: {', '.join(server['unexpected'])}**" if server["unexpected"] else ", and none in another way"
    )
    return (
        f"**{r['frames']:,} wrong frames**, each drawn from a seed and wrong by construction. The parser refused all of "
        f"{parser['refused']:,}; it allocated at most {parser['most_bytes_allocated'] / 1e6:.2f} MB for one (frames of up to "
        f"{parser['frame_bytes_allowed'] / 1e6:.2f} MB were allowed), and took at most {1000 * parser['slowest_seconds']:.0f} ms. "
        f"A server with mutual TLS ended {server['refused']:,} sessions of {server['clients_at_once']} clients at once with an "
        f"error status ({statuses}){wrong}; the slowest took {server['slowest_seconds']:.1f} s. Its memory grew by "
        f"{server['memory_growth_bytes'] / 1e6:.0f} MB at most, where its limits let {server['memory_allowed_bytes'] / 1e6:.0f} MB "
        f"of frames wait. Meanwhile another client did {good['steps']:,} steps, {good['step_seconds']['median']:.2f} s each, and "
        f"its row ended within {good['row_off_by']:.0e} of a computation without a server.\n\n"
        + table(["what was wrong", "parser", "server"], rows)
    )

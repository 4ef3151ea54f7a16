"""Medians, spreads and ratios, as JSON and as markdown."""
import datetime
import os
import platform
import statistics
import subprocess

from . import floors

def command(*argv):
    try:
        return subprocess.run(argv, capture_output=True, text=True, timeout=30, check=False).stdout.strip()
    except OSError:
        return ""


def machine(root):
    model = ""
    with open("/proc/cpuinfo", encoding="utf-8") as file:
        for line in file:
            if line.startswith("model name"):
                model = line.split(":", 1)[1].strip()
                break
    memory_kb = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 1024
    versions = {"mosquitto": command("sh", "-c", "mosquitto -h | head -n 1"), "nats-server": command("nats-server", "-v"),
                "rabbitmq": command("dpkg-query", "-W", "-f=${Version}", "rabbitmq-server"),
                "openssl": command("openssl", "version")}
    return {"date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
            "commit": command("git", "-C", root, "describe", "--always", "--dirty"), "processor": model,
            "cores": os.cpu_count(), "memory_gb": round(memory_kb / 1048576), "kernel": platform.release(),
            "versions": {k: v for k, v in versions.items() if v}}


def values(runs, metric):
    return [r[metric] for r in runs if r.get(metric) is not None]


def summary(scenario, runs):
    """Per server: median, least, most, ratio to the scenario's base, worst foreign share, and the columns' medians."""
    out = {}
    for name, figures in runs.items():
        found = values(figures, scenario.metric)
        row = {"median": statistics.median(found) if found else None, "min": min(found, default=None),
               "max": max(found, default=None), "rounds": len(found),
               "foreign_percent": max(values(figures, "foreign_percent"), default=None),
               "failed": sum(1 for f in figures if f["exit_code"])}
        for column in scenario.columns:
            seen = values(figures, column)
            row[column] = statistics.median(seen) if seen else None
        out[name] = row
    base = out.get(scenario.base, {}).get("median")
    for row in out.values():
        row["ratio"] = row["median"] / base if base and row["median"] is not None else None
    return out


def number(value):
    if value is None:
        return "-"
    if abs(value) >= 1e6:
        return "%.2f M" % (value / 1e6)
    if abs(value) >= 10000:
        return "%.1f k" % (value / 1e3)
    return "%.0f" % value if abs(value) >= 100 else "%.2f" % value


def scenario_table(scenario, rows, disk):
    lines = ["### %s" % scenario.name, "", "%s. Unit: %s%s." % (scenario.title, scenario.unit,
             ", lower is better" if scenario.lower_is_better else ""), "",
             "| server | median | least - most | x %s | %sforeign CPU %% |" % (
                 scenario.base, "".join(c + " | " for c in scenario.columns)),
             "|---|" + "---|" * (4 + len(scenario.columns))]
    for name, row in rows.items():
        lines.append("| %s%s | %s | %s - %s | %s | %s%s |" % (
            name, " (%d FAILED)" % row["failed"] if row["failed"] else "", number(row["median"]), number(row["min"]),
            number(row["max"]), number(row["ratio"]), "".join(number(row[c]) + " | " for c in scenario.columns),
            number(row["foreign_percent"])))
    if disk:
        lines += ["", "The disk itself, medians of the same run: " + ", ".join(
            "%s %s" % (k, number(statistics.median(values(disk, k)))) for k in disk[0]
            if isinstance(disk[0][k], (int, float)) and not isinstance(disk[0][k], bool))]
    return lines + [""]


def growth_table(results):
    """Connections down, sizes across: rate, and processor seconds per million messages."""
    names = sorted({n for rows in results.values() for n in rows})
    lines = ["### growth", "", "Rate (msgs/s) and, behind it, server CPU seconds per million messages.", ""]
    sizes = sorted({int(k.rsplit("x", 1)[1]) for k in results})
    counts = sorted({int(k.split("-")[1].split("x")[0]) for k in results})
    lines += ["| connections | server | " + " | ".join("%d B" % s for s in sizes) + " |", "|---|---|" + "---|" * len(sizes)]
    for count in counts:
        for name in names:
            cells = []
            for size in sizes:
                row = results.get("growth-%dx%d" % (count, size), {}).get(name)
                cells.append("%s / %s" % (number(row["median"]), number(row["server_cpu_s_per_million"])) if row else "-")
            lines.append("| %d | %s | %s |" % (count, name, " | ".join(cells)))
    return lines + [""]


def query_table(rows):
    names = list(dict.fromkeys(k for row in rows for k in row))
    lines = ["### queries", "", "Twins of about 2 KB; ten share a value of `tags.site`. Medians of 9, over HTTPS.", "",
             "| " + " | ".join(names) + " |", "|" + "---|" * len(names)]
    lines += ["| " + " | ".join(number(row.get(k)) for k in names) + " |" for row in rows]
    return lines + [""]


def markdown(about, scenarios, results, disks, rest, queries, stores):
    lines = ["%(date)s, commit %(commit)s. %(processor)s, %(cores)d cores, %(memory_gb)d GB, Linux "
             "%(kernel)s." % about, "", "| server | what it stores before it acknowledges |", "|---|---|"]
    lines += ["| %s | %s |" % item for item in stores.items()] + [""] + floors.table(results, disks, rest, queries)
    growth = {}
    for scenario in scenarios:
        rows = results.get(scenario.name)
        if rows and scenario.name.startswith("growth-"):
            growth[scenario.name] = rows
        elif rows:
            lines += scenario_table(scenario, rows, disks.get(scenario.name))
    if growth:
        lines += growth_table(growth)
    if queries:
        lines += query_table(queries)
    if rest:
        lines += ["### rest", "", "Start to ready on an empty data folder once keys exist: %.0f ms. Resident at rest: "
                  "%.1f MB. Medians of %d." % (rest["start_ms"], rest["rss_bytes"] / 1e6, len(rest["runs"])), ""]
    return "\n".join(lines)

"""Results as text: the page beside the JSON, and the table between README's markers."""

import pathlib
import re
import subprocess

ROOT = pathlib.Path(__file__).resolve().parents[2]
GATES = ROOT / "scripts" / "gates"
# Which of README's tables a set of results is.
MARKERS = {name: (f"<!-- {name}: begin -->", f"<!-- {name}: end -->") for name in ("figures", "network figures")}


def run_gates(network, progress):
    """What each deterministic gate says of the release binaries: those of the network backend, or the others."""
    results = []
    for gate in sorted(path.name for path in GATES.iterdir() if is_gate(path)):
        if gate.startswith("net-") != network:
            continue
        progress(f"gate {gate}")
        done = subprocess.run([GATES / gate], capture_output=True, text=True)
        lines = (done.stdout + done.stderr).strip().splitlines()
        summary = [line.split(": ", 1)[1] for line in lines if line.startswith(f"gate {gate}: ")]
        results.append({"gate": gate, "holds": done.returncode == 0, "summary": "; ".join(summary) or lines[-1]})
    return results


def is_gate(path):
    return path.suffix == "" and path.name != "run" and path.is_file()


def machine_name(machine):
    """A short name for file names: the processor's and the number of cores."""
    words = re.sub(r"\(.*?\)|CPU|Processor|@.*", " ", machine["cpu"]).split()
    return re.sub(r"[^a-z0-9]+", "-", " ".join(words).lower()).strip("-") + f"-{machine['cores']}c"


def mark(holds):
    return "yes" if holds else "**no**"


def table(results):
    """All figures as one Markdown table."""
    lines = [
        "| figure | against | required | measured (median, min-max) | C prototype | holds |", "| --- | --- | --- | --- | --- | --- |"]
    for group in results["groups"]:
        for figure in group["figures"]:
            spread = f"{min(figure['rounds']):.2f}-{max(figure['rounds']):.2f}"
            prototype = f"{figure['prototype']:.2f}" if figure["prototype"] else ""
            lines.append(
                f"| {figure['figure']} | {figure['against']} | {figure['required']} | {figure['median']:.2f} ({spread}) "
                f"| {prototype} | {mark(figure['holds'])} |")
    for gate in results["gates"]:
        lines.append(f"| gate {gate['gate']} | | | {gate['summary']} | | {mark(gate['holds'])} |")
    return "\n".join(lines)


def absolute_values(results):
    lines = ["| group | contender | median | of | backend CPU per request |", "| --- | --- | --- | --- | --- |"]
    for group in results["groups"]:
        rate = group.get("rate", "iops")
        for name, rounds in group["measured"].items():
            middle = sorted(rounds, key=lambda one: one[rate])[len(rounds) // 2]
            cpu = f"{middle['backend_cpu_ns']:,.0f} ns" if "backend_cpu_ns" in middle else ""
            lines.append(f"| {group['group']} | {name} | {middle[rate]:,.0f} | {rate.replace('_', ' ')} | {cpu} |")
    return "\n".join(lines)


def conditions(results):
    machine = results["machine"]
    programs = ", ".join(machine[name] for name in ("fio", "qemu-storage-daemon", "iperf3") if name in machine)
    return (
        f"{results['date']}, commit {machine['commit']}, {machine['cpu']}, {machine['cores']} cores, "
        f"Linux {machine['kernel']}, {programs}. "
        f"Medians over {results['rounds']} alternating rounds of {results['seconds']:g} s.")


def markdown(results):
    commands = "\n".join(
        f"- {group['group']}, {name}: `{command}`"
        for group in results["groups"] for name, command in group["commands"].items())
    return (
        f"# Side by side\n\n`{results['command']}`, {conditions(results)}\n\n{table(results)}\n\n"
        f"## Absolute values\n\nOf this machine in these minutes; only ratios carry over.\n\n"
        f"{absolute_values(results)}\n\n## Commands\n\n{commands}\n")


def update_readme(results, name, readme=ROOT / "README.md"):
    """Puts the newest table between README's markers of that name."""
    begin, end = MARKERS[name]
    text = readme.read_text()
    head, rest = text.split(begin)
    _, tail = rest.split(end)
    readme.write_text(f"{head}{begin}\n{conditions(results)}\n\n{table(results)}\n{end}{tail}")

"""What a command costs before it works: modules loaded, seconds and memory of an import in a fresh interpreter, and the time of ``--help``.

    uv run python benchmarks/startup.py [--rounds 5]

The named peers stand in the same table where they are installed.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time

from core_runtime.domains import domains

CODE = """
import json, resource, sys, time
began = time.perf_counter()
__import__(sys.argv[1])
print(json.dumps([len(sys.modules), time.perf_counter() - began, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024]))
"""
PEERS = ("timm", "transformers", "braindecode", "mne", "torchvision")


def measure_import(module: str, rounds: int) -> tuple[int, float, float] | None:
    """Modules loaded, median seconds and MiB of an import; None where it fails."""
    rows = []
    for _ in range(rounds):
        end = subprocess.run([sys.executable, "-c", CODE, module], capture_output=True, text=True)
        if end.returncode != 0:
            return None
        rows.append(json.loads(end.stdout))
    return rows[0][0], statistics.median(row[1] for row in rows), statistics.median(row[2] for row in rows)


def measure_help(words: list[str], rounds: int) -> tuple[float, float]:
    """Median and greatest seconds of a command's ``--help`` as a whole process."""
    seconds = []
    for _ in range(rounds):
        began = time.perf_counter()
        subprocess.run([*words, "--help"], capture_output=True, check=True)
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds), max(seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    installed, _ = domains()
    ours = ["core_attention", "core_attention.attention"]
    for domain in installed.values():
        rooms = domain.name.replace("-", "_").replace(" ", ".")
        ours.append(f"{rooms}.commands.predict" if domain.name != "ieeg" else "ieeg.commands.detect")
    print(f"{'import':44} {'modules':>8} {'seconds':>8} {'MiB':>7}")
    for module in [*ours, "torch", *PEERS]:
        row = measure_import(module, rounds)
        print(f"{module:44} " + (f"{row[0]:8} {row[1]:8.2f} {row[2]:7.0f}" if row else "   not installed"))
    print(f"\n{'command':44} {'median':>8} {'most':>8}")
    commands = [[name] for name in dict.fromkeys(d.name.split()[0] for d in installed.values())]
    for words in [["attention-suite"], ["core-attention"], *commands]:
        median, most = measure_help(words, rounds)
        print(f"{' '.join(words) + ' --help':44} {median:8.2f} {most:8.2f}")


if __name__ == "__main__":
    main()

"""``language-models arena``."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

from core_runtime.bulk import Attempt, BulkOutcome
from core_runtime.errors import UserError
from core_runtime.options import Above, AtLeast, Between, BulkOptions, Device, Names, Numbers, Precision, options
from language_models.tasks.options import NEEDLE, PAIRS, whole_numbers


@options
class ArenaOptions:
    """The budget that every kind gets.

    Attributes:
        params: parameters of every model, about; equal within 0.5 %, those of the study exactly.
        tokens: tokens of the training on text.
        seeds: models per kind.
        context: tokens of a training window; local kinds see a quarter of it.
        batch: windows of a step.
        lr: highest learning rate.
        needle_lengths: lengths of the needles; default: up to 16 times the context.
        needles: needles for each length and depth.
        text_windows: held-out windows for each context.
        recall_steps: steps of the training on associative recall; 0 leaves it out.
        recall_lr: its learning rate.
        pairs: its greatest number of pairs.
        speed_lengths: lengths at which time and state are measured; 0 leaves them out.
        tokenizer: bytes, or a tokenizer.json.
    """

    params: Annotated[int, AtLeast(1000)] = 1_000_000
    tokens: Annotated[int, AtLeast(1)] = 5_000_000
    seeds: Annotated[int, AtLeast(1)] = 3
    context: Annotated[int, AtLeast(16)] = 256
    batch: Annotated[int, AtLeast(1)] = 16
    lr: Annotated[float, Above(0)] = 3e-3
    needle_lengths: Numbers | None = None
    needles: Annotated[int, AtLeast(1)] = 10
    text_windows: Annotated[int, AtLeast(1)] = 16
    recall_steps: Annotated[int, AtLeast(0)] = 1000
    recall_lr: Annotated[float, Above(0)] = 3e-3
    pairs: Annotated[int, Between(2, PAIRS)] = 8
    speed_lengths: Numbers = (1024, 4096, 16384, 65536)
    tokenizer: Path | None = None


@dataclass(frozen=True)
class Arena(BulkOutcome):
    """What came of every kind.

    Attributes:
        out: its folder: arena.json, arena.csv, arena.md, report.html, cells/.
        rows: `language_models.arena.table.Row` of each kind.
        titles, table: the same as words.
        attempts: what became of each cell.
        headline: one sentence.
        budget: `language_models.arena.cells.Budget`.
    """

    out: Path
    rows: Sequence[Any]
    titles: Sequence[str]
    table: Sequence[Sequence[str]]
    attempts: Sequence[Attempt]
    headline: str
    budget: Any

    def facts(self) -> dict[str, Any]:
        return {
            "report": self.out / "report.html",
            "table": [dict(zip(self.titles, row, strict=True)) for row in self.table],
            "failed": self.failed,
        }

    def lines(self) -> Iterable[str]:
        shown = [i for i, title in enumerate(self.titles) if "@" not in title or "bits" in title or "decode" in title]
        body = [[self.titles[i] for i in shown], *([row[i] for i in shown] for row in self.table)]
        widths = [max(len(row[i]) for row in body) for i in range(len(shown))]
        for row in body:
            yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        yield self.headline
        yield f"Report: {self.out / 'report.html'}"


def arena(
    *,
    text: Path,
    kinds: Names = ("all",),
    budget: ArenaOptions = ArenaOptions(),
    out: Path = Path("arena"),
    device: Device = "auto",
    precision: Precision = "32-true",
    run: BulkOptions = BulkOptions(),
) -> Arena:
    """Trains every mechanism under one budget on the same batches, and prints quality beside speed and memory.

    A rerun goes on with the cells that are not done.

    Example: language-models arena --kinds standard,sliding,dma,titans-mag --params 100000 --tokens 200000 --seeds 2 --text book.txt

    Args:
        text: what is learned, and at its end what is judged by.
        kinds: names, 'all', patterns such as hybrid:even:nonapprox, and FILE.py of your own.
        out: folder for the cells and the tables.
    """
    from core_runtime.bulk import Item, bulk
    from core_runtime.folders import write_text
    from core_runtime.identity import identity
    from core_runtime.options import resolve_device, use_threads
    from language_models.arena.cells import Budget, cell_path, model_of, read_windows, run_cell
    from language_models.arena.table import as_csv, as_json, as_markdown, cells_of, collect
    from language_models.model.kinds import KINDS, find_kind
    from language_models.reports.arena import arena_report
    from language_models.texts.formats import find_texts

    use_threads(run.threads)
    named = list(KINDS) if kinds == ("all",) else list(kinds)
    if len(set(named)) < len(named):
        raise UserError(f"a kind is named twice among {', '.join(named)}", "name each once")
    shared = _budget(budget, Budget)
    where = resolve_device(device)
    files = find_texts(text)
    tokenizer = None if budget.tokenizer is None else str(budget.tokenizer)
    windows = read_windows(str(text), shared.context, tokenizer)
    for kind in named:
        find_kind(kind)  # a misspelt name is the user's first line
        model_of(kind, shared, windows, 0)
    made_from = {
        "text": [identity(file) for file in files],
        # a field each, so that a refusal names what differs
        **{f"budget: {name}": value for name, value in asdict(shared).items()},
        "tokenizer": tokenizer,
        "precision": precision,
    }
    own_files = {kind: {"file": identity(Path(kind.split(".py")[0] + ".py"))} for kind in named if ".py" in kind}
    # every kind's first seed comes before any second one: an arena that is stopped early compares all kinds
    parts = [("speed", 0)] if shared.speed_lengths else []
    for seed in range(budget.seeds):
        parts.append(("text", seed))
        if shared.recall_steps:
            parts.append(("recall", seed))
    items = []
    for part, seed in sorted(parts, key=lambda each: each[1]):
        for kind in named:
            source = (part, kind, seed, shared, str(text), tokenizer, where, precision)
            key = {**made_from, **own_files.get(kind, {}), "kind": kind}
            output = cell_path(out, part, kind, seed)
            items.append(Item(f"{part} · {kind} · {seed}", source, output, key=key, inputs=list(files)))
    attempts = bulk(run_cell, items, run, log=out / "log.jsonl", description="Arena", parts=True)
    failures = {attempt.name: attempt.message for attempt in attempts if not attempt.ok}
    rows = collect(out, named, budget.seeds, shared, failures)
    facts = {
        "text": str(text),
        "bytes": sum(file.stat().st_size for file in files),
        "seeds": budget.seeds,
        "parameters": rows[0].parameters,
        "training tokens": shared.tokens,
        "context": shared.context,
        "device": where,
    }
    headline = summary(rows)
    write_text(out / "arena.json", as_json(rows, shared, facts))
    write_text(out / "arena.csv", as_csv(rows, shared))
    write_text(out / "arena.md", as_markdown(rows, shared))
    arena_report(rows, shared, facts, headline).write(out / "report.html")
    titles, table = cells_of(rows, shared)
    return Arena(out, rows, titles, table, attempts, headline, shared)


def _budget(given: ArenaOptions, kind: Any) -> Any:
    lengths = given.needle_lengths or tuple(given.context * factor for factor in (1, 2, 4, 8, 16))
    speed_lengths = [n for n in given.speed_lengths if n != 0]
    return kind(
        params=given.params,
        tokens=given.tokens,
        context=given.context,
        batch=given.batch,
        lr=given.lr,
        recall_steps=given.recall_steps,
        recall_lr=given.recall_lr,
        pairs=given.pairs,
        needle_lengths=whole_numbers(lengths, "--needle-lengths", NEEDLE),
        needles=given.needles,
        text_windows=given.text_windows,
        speed_lengths=whole_numbers(tuple(speed_lengths), "--speed-lengths", 1),
    )


def summary(rows: Sequence[Any]) -> str:
    """The best kind by bits per byte, and those that find the longest needles."""
    told = [row for row in rows if row.bits]
    if not told:
        return "No kind could be measured on text."
    context = max(set.intersection(*(set(row.bits) for row in told)))
    best = min(told, key=lambda row: row.bits[context].mean)
    length = max(n for row in told for n in row.needles)
    finders = [row.kind for row in told if (row.needles[length].mean or 0) > 0.9]
    names = ", ".join(finders) if finders else "no kind"
    return f"Lowest bits per byte at {context} tokens: {best.kind} ({best.bits[context].mean:.3f}). More than 90 % of needles at {length} tokens: {names}."

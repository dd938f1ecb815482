"""``explainability correspond``."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal

from core_runtime.bulk import Attempt, BulkOutcome, Item, bulk, read_results
from core_runtime.cli import plain
from core_runtime.options import AtLeast, Between, BulkOptions, Device, Out, options, resolve_device


@options
class CorrespondOptions:
    """How a query is decided.

    Attributes:
        neighbours: support images that are compared with the query.
        voters: of them, the best that vote.
        ties: more: one voter more until the tie breaks, as in the interactive tool; smallest: the first class of those that tie, as in
            the published batch code.
        threshold: share of the range above which a cell is common to query and support image.
        axis_order: consistent, or official to repeat the published code's swapped axes.
        mask: cells that may be used: 49 digits 0 and 1 in rows (0000000/0011100/…), a text file of them, or a picture; none: the
            model's own rule.
    """

    neighbours: Annotated[int, AtLeast(1)] = 50
    voters: Annotated[int, AtLeast(1)] = 20
    ties: Literal["more", "smallest"] = "more"
    threshold: Annotated[float, Between(0, 1)] = 0.55
    axis_order: Literal["consistent", "official"] = "consistent"
    mask: str | None = None


@dataclass(frozen=True)
class Corresponded(BulkOutcome):
    """What queries are called.

    Attributes:
        out: a folder per query with ``correspondence.json``, ``correspondence.png`` and ``report.html``.
        answers: of each query that succeeded.
        accuracy: of CHM-Corr and of kNN, over queries whose folder is called like a class; empty where there are none.
        judged: how many those are.
        attempts: what became of each query.
    """

    out: Path
    answers: Sequence[Mapping[str, Any]]
    accuracy: Mapping[str, float]
    judged: int
    attempts: Sequence[Attempt]

    def facts(self) -> dict[str, Any]:
        return {
            "answers": list(self.answers),
            "accuracy": dict(self.accuracy),
            "judged": self.judged,
            "failed": self.failed,
            "out": self.out,
        }

    def lines(self) -> Iterable[str]:
        for answer in self.answers[:20]:
            votes = answer["votes"][answer["label"]]
            yield f"{answer['picture']}: {answer['label']} ({votes} of {answer['k']} votes; kNN says {answer['knn']})"
            for note in answer["notes"]:
                yield f"  {note}"
        if len(self.answers) > 20:
            yield f"… and {len(self.answers) - 20} more"
        if self.judged:
            shares = ", ".join(f"{name} {100 * share:.1f} %" for name, share in self.accuracy.items())
            yield f"Right on {self.judged} queries whose folder names their class: {shares}"
        yield f"Reports: {self.out}"


def correspond(
    path: Path,
    /,
    *,
    index: Path,
    corr: CorrespondOptions = CorrespondOptions(),
    weights: Path | None = None,
    chm: Path | None = None,
    out: Out = Path("correspondences"),
    device: Device = "auto",
    run: BulkOptions = BulkOptions(),
) -> Corresponded:
    """Says what a picture is by the images whose parts match its own; the matching parts are the reason. A rerun goes on.

    Example: explainability correspond bird.jpg --index birds --mask 0000000/0011100/0011100/0011100/0000000/0000000/0000000

    Args:
        path: a picture, or a folder of them; where its folders are called like classes, accuracy is told.
        index: folder that 'explainability index' made.
        weights: where the backbone's checkpoint is now, if it was moved.
        chm: where CHM's checkpoint is now, if it was moved.
    """
    from core_runtime.folders import name_in, output_names
    from core_runtime.identity import identity
    from explainability.chm_corr.index import Index
    from explainability.chm_corr.masks import read_mask
    from explainability.chm_corr.session import check_rules
    from explainability.images.formats import find_images

    files = find_images(path)
    check_rules(Index.open(index), rules_of(corr))
    mask = None if corr.mask is None else read_mask(corr.mask)
    where = resolve_device(device)
    load_index(index, weights, chm, where, (index / "index.json").stat().st_mtime_ns)
    made_from = {
        "index": identity(index / "index.json"),
        "corr": plain(corr.__dict__) | {"mask": None if mask is None else mask.int().tolist()},
    }
    names = [name_in(path, file) for file in files]
    changed = (index / "index.json").stat().st_mtime_ns
    items = []
    for file, name, folder in zip(files, names, output_names(names, ["log.jsonl"]), strict=True):
        source = (file, index, weights, chm, where, changed, corr, mask)
        key = {"input": identity(file), **made_from}
        items.append(Item(name, source, out / folder, key=key, inputs=[file]))
    attempts = bulk(correspond_item, items, run, log=out / "log.jsonl", description="Comparing")
    answers = read_results(items, attempts, "correspondence.json")
    accuracy, judged = judge(answers, Index.open(index).classes)
    return Corresponded(out, answers, accuracy, judged, attempts)


def judge(answers: Sequence[Mapping[str, Any]], classes: Sequence[str]) -> tuple[dict[str, float], int]:
    """Accuracy over the answers whose picture lies in a folder that is called like a class, and how many those are."""
    judged = [answer for answer in answers if Path(answer["picture"]).parent.name in classes]
    if not judged:
        return {}, 0
    accuracy = {}
    for method, key in (("CHM-Corr", "label"), ("kNN", "knn")):
        right = sum(answer[key] == Path(answer["picture"]).parent.name for answer in judged)
        accuracy[method] = right / len(judged)
    return accuracy, len(judged)


def rules_of(corr: CorrespondOptions) -> Any:
    """The rules of a session."""
    from explainability.chm_corr.session import Rules

    return Rules(corr.neighbours, corr.voters, corr.ties, corr.threshold, corr.axis_order)


@lru_cache(1)
def load_index(index: Path, weights: Path | None, chm: Path | None, device: str, changed: int) -> Any:
    """The index with its networks, once in each process; `changed` tells an index that was made again."""
    from explainability.chm_corr.index import Index

    opened = Index.open(index)
    return opened, *opened.load_networks(device, weights=weights, chm=chm)


def correspond_item(item: Item) -> dict[str, Any]:
    """Writes what one query is called and why: all of its files or none."""
    from core_runtime.folders import writing
    from core_runtime.pictures import read_picture
    from explainability.chm_corr.session import compare
    from explainability.reports.correspondence import write_correspondence

    file, folder, weights, chm, device, changed, corr, mask = item.source
    index, backbone, network = load_index(folder, weights, chm, device, changed)
    content = file.read_bytes()
    picture = read_picture(content, file.name)
    session = compare(index, backbone, network, picture.image, content, rules_of(corr))
    decision = session.predict(mask)
    facts = {"picture": item.name, **session.facts(decision, mask)}
    facts["notes"] = [*picture.notes, *facts["notes"]]
    if mask is not None and not bool(mask.any()):
        facts["notes"].append("the mask allows no cell, which is no edit: the model's own rule decided")
    with writing(item.output) as part:
        part.mkdir()
        write_correspondence(part, picture.image, item.name, facts, index)
        text = json.dumps(plain(facts), ensure_ascii=False, indent=1)
        (part / "correspondence.json").write_text(text, encoding="utf-8")
    return {"label": facts["label"]}

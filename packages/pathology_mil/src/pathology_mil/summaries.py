"""What the verbs print at their end: facts for programs, lines for people."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from core_runtime.bulk import Outcome
from core_runtime.cli import Result, note
from pathology_mil.features.encoding import EncodeParams
from pathology_mil.commands.inspect import Findings
from pathology_mil.slides.reading import SlideFile
from pathology_mil.slides.tiles import TileParams
from pathology_mil.slides.tiling import tile_facts, verdict


def sampled(out: Path, outcomes: Sequence[Outcome]) -> Result:
    code = verdict(outcomes, single=False)
    made = [o for o in outcomes if o.ok]
    facts = {
        "folder": str(out),
        "slides": len(made),
        "labels": str(out / "labels.csv"),
        "annotations": str(out / "annotations"),
    }

    def show() -> None:
        print(
            f"{len(made)} slides in {out / 'slides'}, labels in {out / 'labels.csv'}, drawn nests in {out / 'annotations'}"
        )
        print(f"Next: pathology-mil tile {out / 'slides'} --out {out}-job --patch-size 128")

    return Result(facts, show, code)


def inspected(found: Findings) -> Result:
    facts = {
        "kind": found.kind,
        "usable": found.usable,
        "summary": found.summary,
        "facts": found.facts,
        "warnings": found.warnings,
        "next": found.next_commands,
    }

    def show() -> None:
        print(f"{found.kind}: {found.summary}")
        for key, value in found.facts.items():
            print(f"  {key}: {'–' if value is None else value}")
        for warning in found.warnings:
            print(f"Warning: {warning}")
        for command in found.next_commands:
            print(f"Next: {command}")

    return Result(facts, show, 0 if found.usable else 2)


def tiled(
    folder: Path, slides: Sequence[SlideFile], params: TileParams, outcomes: Sequence[Outcome], *, single: bool
) -> Result:
    code = verdict(outcomes, single=single)
    rows = [
        {
            "slide_id": o.name,
            "status": o.status,
            **tile_facts(params.file(_job(folder, params), o.name)),
            "message": o.message,
        }
        for o in outcomes
    ]
    resolutions = [r["mpp"] for r in rows if r["mpp"]]
    facts = {"folder": str(folder), "tiles": sum(r["tiles"] for r in rows), "slides": rows, **_counted(outcomes)}

    def show() -> None:
        wanted = f"{params.patch_size} px at {params.resolution_name}" + (
            f", overlap {params.overlap}" if params.overlap else ""
        )
        print(f"{facts['tiles']} tiles of {wanted} from {len(slides)} slide(s) in {folder}")
        if resolutions:
            print(
                f"  scanned at {_range(resolutions)} µm per pixel ({', '.join(sorted({r['mpp_source'] for r in rows if r['mpp']}))})"
            )
        _say_notes(outcomes)
        print(f"Next: pathology-mil encode {folder} --encoder colour-texture")

    return Result(facts, show, code)


def _range(values: Sequence[float]) -> str:
    low, high = min(values), max(values)
    return f"{low:g}" if low == high else f"{low:g} to {high:g}"


def _job(folder: Path, params: TileParams) -> Path:
    return folder.parent if params.folder else folder


def encoded(folder: Path, params: EncodeParams, outcomes: Sequence[Outcome]) -> Result:
    code = verdict(outcomes, single=len(outcomes) == 1)
    facts = {
        "folder": str(folder),
        "encoder": params.encoder.label,
        "slides": [{"slide_id": o.name, "status": o.status, "message": o.message, **o.facts} for o in outcomes],
        **_counted(outcomes),
    }

    def show() -> None:
        tiles, dims = (
            sum(o.facts.get("tiles", 0) for o in outcomes),
            {o.facts["dim"] for o in outcomes if "dim" in o.facts},
        )
        width = f", {dims.pop()} numbers each" if dims else ""
        done = Counter(o.status for o in outcomes)
        print(
            f"{params.encoder.label}: {tiles} tiles{width} from {done['done']} slide(s), {done['already done']} done before, in {folder}"
        )
        if params.encoder.computed:
            print(
                "  colour-texture is a computed baseline for samples and demos; take a pathology encoder for real questions"
            )
        _say_notes(outcomes)
        print(f"Next: pathology-mil train {folder} labels.csv --out run")

    return Result(facts, show, code)


def mapped(out: Path, outcomes: Sequence[Outcome]) -> Result:
    code = verdict(outcomes, single=len(outcomes) == 1)
    facts = {
        "folder": str(out),
        "slides": [{"slide_id": o.name, "status": o.status, "message": o.message, **o.facts} for o in outcomes],
    }

    def show() -> None:
        for o in (o for o in outcomes if o.ok):
            said = [f"{o.facts['tiles']:,} tiles"]
            if "label" in o.facts:
                said.insert(0, f"{o.facts['label']} ({o.facts['probabilities'][o.facts['label']]:.3f})")
            if "encoder" in o.facts:
                said.append(f"encoder {o.facts['encoder']}")
            if "auprc" in o.facts:
                said.append(f"AUPRC of the attention {o.facts['auprc']:.3f}, chance {o.facts['chance']:.3f}")
            print(f"{o.name}: {', '.join(said)}")
            print(f"  {o.facts['files']['figure']}")
            print(f"  for QuPath: {o.facts['files']['qupath']}")
        _say_notes(outcomes)

    return Result(facts, show, code)


def _counted(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    bad = sum(o.facts.get("bad_tiles", 0) or o.facts.get("bad_regions", 0) for o in outcomes)
    return {"status": dict(Counter(o.status for o in outcomes)), "bad_regions": bad}


def _say_notes(outcomes: Sequence[Outcome]) -> None:
    """Each kind of note once, with the number of slides that it concerns."""
    notes = Counter(n for o in outcomes for n in o.facts.get("notes", ()))
    for text, count in notes.most_common(8):
        print(f"  note ({count} slide{'s' if count > 1 else ''}): {text}")
    if bad := _counted(outcomes)["bad_regions"]:
        where = ", ".join(o.name for o in outcomes if o.facts.get("bad_tiles") or o.facts.get("bad_regions"))
        note.print(
            f"{bad} regions could not be decoded and were taken as background: {where}", style="yellow", markup=False
        )

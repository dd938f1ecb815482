"""``attention-suite try``: the first look at any file of a known field."""

import webbrowser
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from core_runtime.cli import Outcome
from core_runtime.domains import Claim, Domain, domains
from core_runtime.errors import UserError
from core_runtime.findings import Findings
from core_runtime.options import Flag, Overwrite
from core_runtime.terminal import note, silent

SURE = 0.5  # below it, the file could belong to several domains, as any picture could


@dataclass(frozen=True)
class FirstLook(Outcome):
    """What a file is, who claims it, and where the report is.

    Attributes:
        claims: of every domain that could do something with the file, the surest first; the findings are that domain's.
    """

    path: Path
    claims: Sequence[tuple[Domain, Claim]]
    findings: Findings
    report: Path

    @property
    def code(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        return 0 if self.findings.usable else 2

    def facts(self) -> dict[str, Any]:
        domain, claim = self.claims[0]
        others = []
        for other, its_claim in self.claims[1:]:
            others.append(
                {
                    "domain": other.name,
                    "kind": its_claim.kind,
                    "certainty": its_claim.certainty,
                    "evidence": its_claim.evidence,
                }
            )
        return {
            "file": str(self.path),
            "domain": domain.name,
            "kind": claim.kind,
            "certainty": claim.certainty,
            "evidence": claim.evidence,
            "usable": self.findings.usable,
            "summary": self.findings.summary,
            "facts": dict(self.findings.details),
            "warnings": list(self.findings.warnings),
            "next": list(self.findings.next_commands),
            "others": others,
            "report": str(self.report),
        }

    def lines(self) -> Iterable[str]:
        _, claim = self.claims[0]
        evidence = ""
        if claim.evidence:
            evidence = f" ({claim.evidence})"
        yield f"{self.path.name}: {claim.kind}{evidence}. {self.findings.summary}"
        for warning in self.findings.warnings:
            yield f"Warning: {warning}"
        for command in self.findings.next_commands:
            yield f"Next: {command}"
        yield from could_do(self.path, self.claims)
        yield f"Report: {self.report}"


def try_file(
    file: Path,
    /,
    *,
    out: Annotated[Path | None, Parameter(alias="-o")] = None,
    open_report: Annotated[bool, Parameter(name="--open"), Flag("--no-open")] = True,
    overwrite: Overwrite = False,
) -> FirstLook:
    """Looks at any file of a known field: what it is, whether it is usable, a first picture and the exact next command.

    Example: attention-suite try slide.svs

    Args:
        file: a slide, map sheet, recording, scanpath, screenshot or volume, or a folder of them.
        out: folder for the report; default: try-NAME here.
        open_report: open the report in the web browser.
    """
    if not file.exists():
        raise UserError(f"no such file: {file}", "give the path of a file that the instrument wrote")
    installed, broken = domains()
    claims = claims_of(file, list(installed.values()))
    if not claims:
        raise _unknown(file, installed.values(), broken)
    target = (out or Path(f"try-{file.stem}")) / "report.html"
    # try-NAME is the command's own folder and is replaced; one that the user named is not.
    if out is not None and target.exists() and not overwrite:
        raise UserError(f"{target} is already there", "--overwrite replaces it, --out names another folder")
    claims, findings = _first_look(file, claims)
    report = findings.report()
    alternatives = list(could_do(file, claims))
    if alternatives:
        report.heading("What each domain could do with it").command(*alternatives)
    report.write(target)
    if open_report and note.is_terminal:  # a pipe or a cluster's job has no one to look at a browser
        webbrowser.open(target.resolve().as_uri())
    return FirstLook(file, claims, findings, target)


def _first_look(file: Path, claims: Sequence[tuple[Domain, Claim]]) -> tuple[Sequence[tuple[Domain, Claim]], Findings]:
    """The findings of the surest domain; where none is sure, of the first that can read it. Claims of those that cannot are left out.

    Raises:
        UserError: that of the surest domain, where no other can read it.
    """
    refused = None
    for place, (domain, claim) in enumerate(claims):
        try:
            return claims[place:], domain.glance(file)
        except UserError as error:
            refused = refused or error
            if claim.certainty >= SURE:
                break
    assert refused is not None
    raise refused


def _unknown(path: Path, installed: Iterable[Domain], broken: Mapping[str, str]) -> UserError:
    """What to say of a path that no domain claims: what it is where that can be told, else what is known."""
    config = path / "config.json"
    if (path / "model" / "config.json").is_file():
        return UserError(
            f"{path.name} is the folder of a run", f"its model is {path / 'model'}: --model of 'predict' takes it"
        )
    if config.is_file():
        return UserError(
            f"{path.name} is a model folder", "--model of 'predict' takes it; 'models check' of its command looks at it"
        )
    if path.is_file() and not path.stat().st_size:
        return UserError(f"{path.name} is empty", "copy or export it again")
    missing = f"; not importable: {', '.join(broken)}" if broken else ""
    return UserError(
        f"{path.name}: no installed domain knows this kind of {'folder' if path.is_dir() else 'file'}",
        f"of a file that should be known, 'COMMAND inspect' says more; commands: {', '.join(domain.name for domain in installed)}{missing}",
    )


def claims_of(path: Path, candidates: Sequence[Domain]) -> list[tuple[Domain, Claim]]:
    """The domains that could do something with a file, the surest first."""
    claims = []
    for domain in candidates:
        with silent():  # what another field would say of it
            claim = domain.recognises(path)
        if claim is not None:
            claims.append((domain, claim))
    return sorted(claims, key=lambda pair: -pair[1].certainty)


def could_do(path: Path, claims: Sequence[tuple[Domain, Claim]]) -> Iterable[str]:
    """One line per domain: every domain where none is sure, else those nearly as sure as the first."""
    if len(claims) < 2:
        return
    surest = claims[0][1].certainty
    others = claims
    if surest >= SURE:
        others = [pair for pair in claims[1:] if pair[1].certainty >= surest - 0.2]
    for domain, claim in others:
        yield f"{domain.name} inspect {path}    # as {claim.kind}: {domain.question}"

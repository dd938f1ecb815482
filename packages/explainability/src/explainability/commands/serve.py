"""``explainability serve``."""

import contextlib
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

from core_runtime.errors import UserError
from core_runtime.options import AtLeast, Between, Device, Model, options, resolve_device
from explainability.commands.correspond import CorrespondOptions, rules_of

MEGABYTE = 1024 * 1024


@options
class ServerOptions:
    """Where the page is, and who may call it.

    Attributes:
        host: address to listen on; one that other machines reach needs a token.
        port: 0 takes any that is free.
        token: text file with the secret that callers must bring.
        megabytes: of the largest picture file.
        waiting: requests that may wait for their turn.
    """

    host: str = "127.0.0.1"
    port: Annotated[int, Between(0, 65535)] = 8000
    token: Path | None = None
    megabytes: Annotated[int, AtLeast(1)] = 32
    waiting: Annotated[int, AtLeast(1)] = 64


@options
class StudyOptions:
    """A study with people.

    Attributes:
        study: folder for the log of a study; without it there is none.
        trials: of each participant; half of them the model gets right, half wrong.
        condition: interactive: participants may edit the cells; static: they see them only.
    """

    study: Path | None = None
    trials: Annotated[int, AtLeast(2)] = 20
    condition: Literal["interactive", "static"] = "interactive"


def serve(
    *,
    model: Model = None,
    index: Path | None = None,
    queries: Path | None = None,
    weights: Path | None = None,
    chm: Path | None = None,
    corr: CorrespondOptions = CorrespondOptions(),
    study: StudyOptions = StudyOptions(),
    server: ServerOptions = ServerOptions(),
    device: Device = "auto",
) -> None:
    """Opens a local page on which to argue with a model: explain, heads, correspond and study, until it is stopped.

    With --model the page explains pictures and shows attention heads; with --index it finds corresponding images, and a user drags over
    the cells that may be used; with --study and --queries it runs a study. Nothing leaves this machine.

    Example: explainability serve --model run/model --index shapes-index --queries shapes/test --study study

    Args:
        index: folder that 'explainability index' made.
        queries: pictures to choose from on the page; for a study a folder per class.
        weights: where the index's backbone is now, if it was moved.
        chm: where CHM's checkpoint is now, if it was moved.
    """
    from core_runtime.terminal import note

    if model is None and index is None:
        raise UserError("neither --model nor --index was given", "--model explains pictures, --index finds like ones")
    if study.study is not None and (index is None or queries is None):
        raise UserError("a study needs --index and --queries", "--queries takes pictures by class that are not indexed")
    try:
        from core_runtime.server import LOOPBACK, Limits, bind, local_app, read_token
        from core_runtime.server import serve as answer_until_stopped
    except ImportError:
        raise UserError(
            "FastAPI and uvicorn are not installed", "pip install 'attention-suite-explainability[serve]'"
        ) from None
    secret = read_token(server.token)
    limits = Limits(size=server.megabytes * MEGABYTE, waiting=server.waiting)
    # bound before anything is loaded, so that a port in use is told at once
    with contextlib.closing(bind(server.host, server.port, secret)) as listening:
        endpoints = desks(model, index, queries, weights, chm, corr, study, resolve_device(device))
        hosts = (*LOOPBACK, server.host)
        app = local_app("explainability", page(), endpoints, token=secret, limits=limits, hosts=hosts)
        shown = f"[{server.host}]" if ":" in server.host else server.host
        note.print(f"http://{shown}:{listening.getsockname()[1]}/  (Ctrl-C stops)", markup=False)
        answer_until_stopped(app, listening, limits=limits)


def page() -> str:
    """The page that a browser shows."""
    return resources.files("explainability.reports").joinpath("serve.html").read_text(encoding="utf-8")


def desks(
    model: str | None,
    index: Path | None,
    queries: Path | None,
    weights: Path | None,
    chm: Path | None,
    corr: CorrespondOptions,
    study: StudyOptions,
    device: str,
) -> dict[str, Any]:
    """Path → function; everything is loaded now, so that a mistake is the first line.

    Raises:
        UserError: no such model, index or queries; too few queries for a study.
    """
    from explainability.chm_corr.index import Index
    from explainability.chm_corr.session import check_rules
    from explainability.images.formats import find_images
    from explainability.models.loading import load_classifier
    from explainability.serving.desk import CorrespondDesk, ExplainDesk, Matcher, Pictures

    files = [] if queries is None else find_images(queries)
    pictures = Pictures(files)
    endpoints: dict[str, Any] = {}
    state: dict[str, Any] = {"explain": False, "correspond": False, "study": False, "classes": []}
    names = []
    for file in files[:500]:
        if queries is not None and queries.is_dir():
            names.append(str(file.relative_to(queries)))
        else:
            names.append(file.name)
    state["queries"] = names
    if model is not None:
        classifier = load_classifier(model, device)
        endpoints |= ExplainDesk(classifier, pictures).endpoints()
        state |= {"explain": True, "classes": list(classifier.names[:1000])}
    if index is not None:
        opened = Index.open(index)
        check_rules(opened, rules_of(corr))
        matcher = Matcher(opened, *opened.load_networks(device, weights=weights, chm=chm), rules_of(corr))
        endpoints |= CorrespondDesk(matcher, pictures).endpoints()
        state |= {"correspond": True, "indexed": len(opened.entries), "index_classes": list(opened.classes[:1000])}
        if study.study is not None and queries is not None:
            desk = study_desk(matcher, pictures, queries, study)
            endpoints |= desk.endpoints()
            state |= {"study": True, "trials": study.trials, "condition": study.condition}
    endpoints["/state"] = lambda call: state
    return endpoints


def study_desk(matcher: Any, pictures: Any, queries: Path, study: StudyOptions) -> Any:
    """Compares every query with the index, and takes those of known classes as trials.

    Raises:
        UserError: no query lies in a folder that is called like a class, or there are too few right or wrong answers.
    """
    from core_runtime.terminal import progress
    from explainability.serving.studying import StudyDesk, Trial

    classes = matcher.index.classes
    trials = []
    with progress("Comparing the queries", len(pictures.queries)) as bar:
        for number, file in enumerate(pictures.queries):
            bar.advance(bar.task_ids[0])
            if file.parent.name not in classes:
                continue
            sent = pictures.query(number)
            session = matcher.compare(sent.picture, sent.content)
            answer = classes[session.support.predict(None, ties=session.rules.ties).label]
            trials.append(Trial(number, file.parent.name, session, answer))
    if not trials:
        raise UserError(
            f"{queries}: no picture lies in a folder called like a class", f"classes are {', '.join(classes[:10])}"
        )
    assert study.study is not None
    return StudyDesk(trials, pictures, study.study, study.trials, study.condition)

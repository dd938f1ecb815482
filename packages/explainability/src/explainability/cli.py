"""The verbs of ``explainability``; no logic."""

from core_runtime.cli import add, application, run
from explainability.commands.correspond import correspond
from explainability.commands.demo import demo
from explainability.commands.evaluate import evaluate
from explainability.commands.explain import explain
from explainability.commands.heads import heads
from explainability.commands.index import index
from explainability.commands.inspect import inspect
from explainability.commands.locate import locate
from explainability.commands.models import models
from explainability.commands.recipes import recipes
from explainability.commands.sample import sample
from explainability.commands.serve import serve
from explainability.commands.study import study
from explainability.commands.train import train
from explainability.commands.traits import traits
from explainability.commands.words import words

app = application("explainability", "Why did the model say that, and can the picture be trusted?")
add(
    app,
    explain,
    sample,
    inspect,
    recipes,
    train,
    evaluate,
    traits,
    locate,
    heads,
    index,
    correspond,
    serve,
    study,
    words,
    demo,
)
add(app, explain, name="predict")
app.command(models)


def main() -> None:
    run(app)

"""``attention-suite``: what spans the installed domains: their demos, their health, and the first look at any file."""

from core_runtime.cli import add, application, run
from core_runtime.commands.demo import demo
from core_runtime.commands.doctor import doctor
from core_runtime.commands.list_domains import list_domains
from core_runtime.commands.try_file import try_file

app = application(
    "attention-suite",
    "Published attention systems on real scientific data. Try: attention-suite demo, attention-suite try FILE.",
)
add(app, list_domains, name="list")
add(app, doctor)
add(app, demo)
add(app, try_file, name="try")


def main() -> None:
    run(app)

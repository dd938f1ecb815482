"""The command ``remote-sensing`` and its groups; no logic."""

from core_runtime.cli import application, run
from remote_sensing.landuse.cli import app as landuse
from remote_sensing.maps.cli import app as maps

app = application(
    "remote-sensing",
    "Land use from satellite tiles: `remote-sensing landuse`. Vector features from historical map sheets: `remote-sensing maps`.",
)
app.add_typer(landuse, name="landuse")
app.add_typer(maps, name="maps")


def main() -> None:
    run(app)

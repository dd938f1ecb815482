"""The command ``remote-sensing`` and its groups; no logic."""

from core_runtime.cli import application, run

app = application(
    "remote-sensing",
    "Land use from satellite tiles: `remote-sensing landuse`. "
    "Vector features from historical map sheets: `remote-sensing maps`.",
)
# by import path: a group is imported only when it is called
app.command("remote_sensing.landuse.cli:app", name="landuse")
app.command("remote_sensing.maps.cli:app", name="maps")


def main() -> None:
    run(app)

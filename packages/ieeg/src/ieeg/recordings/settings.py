"""How recordings are prepared: the settings stored with a model, and the options that change them. Imports nothing heavy."""

from dataclasses import dataclass, fields, replace
from typing import Annotated, Any, Literal, get_args

from core_runtime.options import AtLeast, Flag, Names, options

Reference = Literal["median", "average", "bipolar", "laplacian", "none"]
Resampling = Literal["exact", "linear"]
CHOICES = {"reference": get_args(Reference), "resampling": get_args(Resampling)}


@dataclass(frozen=True)
class Settings:
    """How recordings are prepared.

    Attributes:
        rate: of the prepared signal, Hz.
        segment: seconds per segment.
        reference: median (as in SWEC's recordings), average, bipolar, laplacian or none.
        low, high: pass band, Hz (4th-order Butterworth, zero phase); 0 leaves an edge open.
        notch: mains frequency whose harmonics are removed, Hz; 0: none; None: from the sidecar, else the one that stands out in the spectrum.
        channels: if there are more, the paper's choice of this number is used; 0: keep all.
        keep_bads: also use bad channels.
        exclude: names of channels to leave out.
        resampling: "exact" cuts the spectrum; "linear" interpolates as the published loader does (it aliases).
    """

    rate: float = 512.0
    segment: float = 5.0
    reference: Reference = "median"
    low: float = 0.5
    high: float = 150.0
    notch: float | None = None
    channels: int = 32
    keep_bads: bool = False
    exclude: tuple[str, ...] = ()
    resampling: Resampling = "exact"

    @property
    def segment_samples(self) -> int:
        return round(self.segment * self.rate)

    def changed_by(self, *options: Any) -> "Settings":
        """These settings with the user's changes: every field of the options that is not at its default."""
        changes: dict[str, Any] = {}
        for group in options:
            changes |= asked_for(group)
        return replace(self, **changes)


def asked_for(group: Any) -> dict[str, Any]:
    """The fields of a class of options that are not at their defaults."""
    changes = {}
    for field in fields(group):
        value = getattr(group, field.name)
        if value != field.default:
            changes[field.name] = value
    return changes


@options
class Montage:
    """The channels that the model gets.

    Attributes:
        reference: reference of each channel, instead of the model's own (median).
        channels: number of channels to keep (the paper's choice; default 32); 0: all.
    """

    reference: Reference | None = None
    channels: Annotated[int | None, AtLeast(0)] = None


@options
class Cleaning:
    """What is removed before the model gets a recording.

    Attributes:
        keep_bads: also use bad channels.
        exclude: channels to leave out, separated by commas.
        notch: mains frequency, Hz; 0: none. Default: from the sidecar or the spectrum.
    """

    keep_bads: Annotated[bool, Flag()] = False
    exclude: Names = ()
    notch: Annotated[float | None, AtLeast(0)] = None

"""Intracranial EEG as the suite sees it; imports nothing heavy."""

from core_runtime.domains import Check, Domain, check_modules, lazily
from ieeg.recordings.formats import claim


def doctor() -> list[Check]:
    """Checks which formats can be read here, and where models run."""
    purposes = {
        "mne": "BrainVision, FIF, EEGLAB, Persyst, Nihon Kohden",
        "edfio": "writing EDF+",
        "h5py": "SWEC's HDF5",
        "hdf5plugin": "its compression",
        "pyarrow": "Parquet traces",
        "lightning": "training",
    }
    extras = {
        "pymef": "for MEF3: pip install 'attention-suite-ieeg[mef]'",
        "distributed": "for --scheduler: pip install 'attention-suite-ieeg[cluster]'",
    }
    return check_modules(purposes, extras)


domain = Domain(
    name="ieeg",
    question="When does this patient have seizures, and what comes next? (intracranial recording → MVPFormer → events and forecasts)",
    recognises=claim,
    glance=lazily("ieeg.commands.inspect:glance"),
    demo=lazily("ieeg.commands.demo:demo"),
    doctor=doctor,
    app="ieeg.cli:app",
    kinds="intracranial recordings (.edf, .bdf, .vhdr, .fif, .set, .lay, .mefd, SWEC .h5), BIDS-iEEG folders",
)

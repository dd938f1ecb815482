"""Intracranial EEG as the suite sees it. Imports nothing heavy: what a function needs is imported when it is called."""

from pathlib import Path

from core_runtime.suite import Check, DemoResult, Domain, Glance


def recognises(path: Path) -> str | None:
    from ieeg.recordings.recording import recognises

    return recognises(path)


def glance(path: Path) -> Glance:
    from ieeg.commands.inspect import glance

    return glance(path)


def demo(out: Path, full: bool) -> DemoResult:
    from ieeg.commands.demo import run_demo

    return run_demo(out, full)


def doctor() -> list[Check]:
    """Which formats can be read here, and where models run."""
    checks = []
    for module, purpose in (
        ("mne", "BrainVision, FIF, EEGLAB, Persyst, Nihon Kohden"),
        ("edfio", "writing EDF+"),
        ("h5py", "SWEC's HDF5"),
        ("hdf5plugin", "its compression"),
        ("pyarrow", "Parquet traces"),
        ("lightning", "training"),
    ):
        try:
            found = __import__(module)
            checks.append(Check(module, True, f"{purpose}, {getattr(found, '__version__', 'version unknown')}"))
        except ImportError as error:
            checks.append(Check(module, False, f"{purpose}: {error}"))
    for module, purpose, extra in (("pymef", "MEF3", "mef"), ("distributed", "--scheduler", "cluster")):
        try:
            __import__(module)
            checks.append(Check(module, True, purpose))
        except ImportError:
            checks.append(Check(module, True, f"optional, for {purpose}: pip install 'attention-suite-ieeg[{extra}]'"))
    import torch

    device = "CUDA" if torch.cuda.is_available() else "MPS" if torch.backends.mps.is_available() else "CPU only"
    checks.append(Check("torch", True, f"{torch.__version__}, {device}"))
    return checks


domain = Domain(
    name="ieeg",
    question="When does this patient have seizures, and what comes next? (intracranial recording → MVPFormer → events and forecasts)",
    recognises=recognises,
    glance=glance,
    demo=demo,
    doctor=doctor,
    app="ieeg.cli:app",
    kinds="intracranial recordings (.edf, .bdf, .vhdr, .fif, .set, .lay, .mefd, SWEC .h5), BIDS-iEEG folders",
)

"""What `attention-suite` knows of this domain; imports nothing heavy."""

from core_runtime.domains import Domain

domain = Domain(
    name="ieeg",
    package="ieeg",
    question="When does this patient have seizures, and what comes next? (intracranial recording → MVPFormer → events and forecasts)",
    claim="ieeg.recordings.formats:claim",
    kinds="intracranial recordings (.edf, .bdf, .vhdr, .fif, .set, .lay, .mefd, SWEC .h5), BIDS-iEEG folders",
    needs={
        "mne": "BrainVision, FIF, EEGLAB, Persyst, Nihon Kohden",
        "edfio": "writing EDF+",
        "h5py": "SWEC's HDF5",
        "hdf5plugin": "its compression",
        "pyarrow": "Parquet traces",
        "lightning": "training",
    },
    extras={
        "pymef": "for MEF3: pip install 'attention-suite-ieeg[mef]'",
        "distributed": "for --scheduler: pip install 'attention-suite-ieeg[cluster]'",
    },
)

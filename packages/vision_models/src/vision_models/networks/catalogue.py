"""All families of networks, by the name of each network; imports nothing heavy."""

from vision_models.networks.biformer.variants import family as _biformer
from vision_models.networks.davit.variants import family as _davit
from vision_models.networks.dhvt.variants import family as _dhvt
from vision_models.networks.families import Family
from vision_models.networks.mambaout.variants import family as _mambaout
from vision_models.networks.moh.variants import family as _moh
from vision_models.networks.rala.variants import family as _rala
from vision_models.networks.scatterbrain.variants import family as _scatterbrain
from vision_models.networks.sparsifiner.variants import family as _sparsifiner
from vision_models.networks.ulsam.variants import family as _ulsam

FAMILIES: tuple[Family, ...] = (
    _biformer,
    _davit,
    _dhvt,
    _mambaout,
    _moh,
    _rala,
    _scatterbrain,
    _sparsifiner,
    _ulsam,
)

BY_NAME: dict[str, Family] = {name: family for family in FAMILIES for name in family.variants}

"""The models of this package under transformers' Auto classes. `import language_models.model.registration` registers them."""

from __future__ import annotations

from transformers import AutoConfig, AutoModelForCausalLM

from language_models.model.causal import SuiteForCausalLM
from language_models.model.deconstructed import DeconstructedForCausalLM
from language_models.model.doge import DogeForCausalLM
from language_models.model.landmark import LandmarkForCausalLM, LandmarkGPTForCausalLM
from language_models.model.moh import MoHForCausalLM
from language_models.model.plain import PlainForCausalLM
from language_models.model.scatterbrain import ScatterbrainForCausalLM
from language_models.model.titans import TitansForCausalLM
from language_models.model.titans_lr import TitansLRForCausalLM

MODELS: dict[str, type[SuiteForCausalLM]] = {
    model.config_class.model_type: model
    for model in (
        PlainForCausalLM,
        LandmarkForCausalLM,
        LandmarkGPTForCausalLM,
        DogeForCausalLM,
        TitansForCausalLM,
        TitansLRForCausalLM,
        MoHForCausalLM,
        DeconstructedForCausalLM,
        ScatterbrainForCausalLM,
    )
}

for _name, _model in MODELS.items():
    AutoConfig.register(_name, _model.config_class, exist_ok=True)
    AutoModelForCausalLM.register(_model.config_class, _model, exist_ok=True)

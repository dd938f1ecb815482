"""What is declared of v2p; how its components are built, loaded and run stands in `official`."""

from core_attention.systems import Paper, System, components_of

system = System(
    "v2p",
    components_of(
        "gui_grounding.model.official",
        "VisionHead_MultiPatch",
        "VisionHead_MultiPatch_guiactor",
        "multi_patch_labels",
        "prediction_region_point",
        "reformat_coordinates",
        "Qwen2_5_VLForConditionalGenerationWithPointer",
    ),
    paper=Paper(
        "V2P: From Background Suppression to Center Peaking for Robust GUI Grounding Task",
        2025,
        repository="inclusionAI/AWorld-RL",
        licence="MIT",
        also="microsoft/GUI-Actor, MIT",
        components=(
            "VisionHead_MultiPatch",
            "VisionHead_MultiPatch_guiactor",
            "multi_patch_labels",
            "prediction_region_point",
            "reformat_coordinates",
            "Qwen2_5_VLForConditionalGenerationWithPointer",
        ),
    ),
)

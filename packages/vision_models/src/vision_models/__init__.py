"""What is in these pictures, and where: the papers' networks beside timm's, and detectors in the dark.

A notebook imports from the groups: ``vision_models.classify`` and ``vision_models.detect``.
"""

from vision_models.networks.registering import register_with_timm

# `timm.create_model("biformer_tiny")` works from here on; neither timm nor torch is imported for it.
register_with_timm()

"""Land use from satellite tiles (EuroSAT), vector features from historical map sheets (MapSAM).

What a notebook imports stands in the groups: ``remote_sensing.landuse`` and ``remote_sensing.maps``.
"""

"""Land use from satellite tiles (EuroSAT), vector features from historical map sheets (MapSAM).

A notebook imports from the groups: ``remote_sensing.landuse`` and ``remote_sensing.maps``.
"""

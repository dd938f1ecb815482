"""Land use from satellite tiles (EuroSAT), vector features from historical map sheets (MapSAM)."""

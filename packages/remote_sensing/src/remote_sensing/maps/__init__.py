"""Vector features from historical map sheets: MapSAM."""

"""Land use of Sentinel-2 tiles and scenes: the EuroSAT networks with balanced multi-task attention."""

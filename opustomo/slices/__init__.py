"""From central slices to volumes, and volumes to other grids; shared by simulation and preparation."""

"""Figures of latents, losses and volumes, and ChimeraX command files."""

"""Subtraction of a part of each particle's own volume from its subtomogram."""

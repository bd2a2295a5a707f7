"""Defaults of the command line equal those of the config dataclasses."""

from __future__ import annotations

import argparse
import dataclasses
import importlib
from typing import Any

import pytest

from opustomo.commands.registry import DSD, DSDSH, load_command

CONFIGS = {
    "dsd train_tomo": (
        "training.config.TrainingConfig training.config.RunConfig model.config.ModelConfig model.config.PhysicsConfig "
        "data.config.DataConfig"
    ),
    "dsd check": "data.config.DataConfig",
    "dsd reconstruct": "data.config.DataConfig",
    "dsd simulate": "simulate.dataset.SimulationConfig simulate.acquisition.Optics",
    "dsd extract_subtomos": (
        "prepare.subtomogram_extraction.ReconstructionConfig prepare.subtomogram_extraction.ExtractionConfig"
    ),
    "dsd prepare_ctf": "prepare.ctf_preparation.CtfConfig",
    "dsd prepare_subtomos": "prepare.particle_series.SeriesConfig",
    "dsdsh extract_tomo_cubes": "prepare.cubes.CubeConfig",
    "dsdsh create_mask": "prepare.mask_creation.MaskRecipe",
    "dsdsh export_relion": "data.config.DataConfig",
    "dsdsh validate": "quality.evidence.validation.ValidationRequest",
}
OTHER_NAMES = {
    "epochs": "num_epochs",
    "weight_decay": "wd",
    "ctf_alpha": "ctfalpha",
    "ctf_beta": "ctfbeta",
    "ctf_normalized": "normalizectf",
    "bfactor_A2": "bfactor",
    "apix": "angpix",
    "estimate_pose": "estpose",
    "voltage_kv": "voltage",
    "cs_mm": "cs",
    "amplitude_contrast": "amplitude",
    "tilt_range_deg": "tilt_range",
    "tilt_step_deg": "tilt_step",
    "tilt_limit_deg": "tilt_limit",
}
"""Fields of configs whose options have other names."""
SETTLED_LATER = {"device", "amp", "separate", "lamb", "workers"}
"""Fields without a fixed default on the command line: the machine or the preset decides."""


def options_of(line: str) -> dict[str, Any]:
    """Return the defaults of a command by destination."""
    program, name = line.split()
    parser = argparse.ArgumentParser()
    load_command({"dsd": DSD, "dsdsh": DSDSH}[program][name]).add_arguments(parser)
    return {action.dest: action.default for action in parser._actions}


def fields_of(config: str) -> dict[str, Any]:
    """Return the fields of a config that have a default."""
    module, _, name = config.rpartition(".")
    fields = dataclasses.fields(getattr(importlib.import_module(f"opustomo.{module}"), name))
    return {field.name: field.default for field in fields if field.default is not dataclasses.MISSING}


def pairs(line: str) -> dict[str, tuple[Any, Any]]:
    """Return defaults of the command line and of the config for each option of a command that sets a field."""
    options, found = options_of(line), {}
    for config in CONFIGS[line].split():
        for name, default in fields_of(config).items():
            option = next((word for word in (OTHER_NAMES.get(name), name) if word in options), None)
            if option is not None and name not in SETTLED_LATER:
                found[f"{config}.{name}"] = (options[option], default)
    return found


@pytest.mark.parametrize("line", CONFIGS)
def test_defaults_of_the_command_line_are_those_of_the_config(line: str) -> None:
    found = pairs(line)
    assert len(found) >= 3
    plain = {name: tuple(tuple(v) if isinstance(v, list) else v for v in both) for name, both in found.items()}
    assert not {name: both for name, both in plain.items() if both[0] != both[1]}


def test_most_options_of_training_are_compared() -> None:
    assert len(pairs("dsd train_tomo")) >= 35

#!/usr/bin/env bash
# RELION 5: particles of a project, subtomograms from its tilt series, a first training.
set -euo pipefail

PICKS=${PICKS:-Picks/job010/particles.star}            # RELION 5 particles, or any table with coordinates in pixels
TOMOGRAMS=${TOMOGRAMS:-Tomograms/job009/tomograms.star}
BOX=${BOX:-96}                                         # subtomograms, pixels
APIX=${APIX:-4.0}                                      # and Angstrom per pixel
OUT=${OUT:-opustomo_relion5}
TRAIN=${TRAIN:---zdim 12 --estpose -n 20 -b 8}

mkdir -p "$OUT"
PARTICLES=$PICKS
if ! grep -q rlnCenteredCoordinateXAngst "$PICKS"; then
    # picks of another program: pixels from the corner become Angstrom from the center
    PARTICLES=$OUT/picks.star
    dsdsh convert_relion5 "$PICKS" --tomograms "$TOMOGRAMS" -o "$PARTICLES"
fi
dsd extract_subtomos "$PARTICLES" --tomograms "$TOMOGRAMS" --box "$BOX" --apix "$APIX" -o "$OUT/subtomos"

dsdsh prepare "$OUT/subtomos/particles.star" "$BOX" "$APIX"
dsdsh create_mask "$(find "$OUT/subtomos" -name '*.mrc' -print -quit)" -o "$OUT/mask.mrc" \
    --sphere-radius $((BOX / 3)) --soft-edge 3
# shellcheck disable=SC2086  # training options are a list of words
dsd train_tomo "$OUT/subtomos/particles.star" --poses "$OUT/subtomos/particles_pose_euler.pkl" -r "$OUT/mask.mrc" \
    --angpix "$APIX" --normalizectf -o "$OUT/run" $TRAIN

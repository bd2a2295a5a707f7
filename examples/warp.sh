#!/usr/bin/env bash
# WARP/M: particles of an M species, subtomograms from WARP's tilt series, a first training.
set -euo pipefail

SPECIES=${SPECIES:-species/particles.star}    # particle STAR file of the species (wrpCoordinateX1 ...)
WARP_DIR=${WARP_DIR:-warp_tiltseries}         # WARP's XML files, with tiltstack/ beside them
TOMO_SIZE=${TOMO_SIZE:-5760 4092 2000}        # tomograms, pixels before binning
BOX=${BOX:-96}                                # subtomograms, pixels
APIX=${APIX:-4.0}                             # and Angstrom per pixel
OUT=${OUT:-opustomo_warp}
TRAIN=${TRAIN:---zdim 12 --estpose -n 20 -b 8}

mkdir -p "$OUT"
# places in Angstrom become pixels of APIX; angles and half-sets stay
dsdsh convert_warp "$SPECIES" "$APIX" -o "$OUT/picks.star"
# shellcheck disable=SC2086  # the size and training options are lists of words
dsd extract_subtomos "$OUT/picks.star" --warp "$WARP_DIR" --tomo-size $TOMO_SIZE \
    --coord-apix "$APIX" --box "$BOX" --apix "$APIX" -o "$OUT/subtomos"

dsdsh prepare "$OUT/subtomos/particles.star" "$BOX" "$APIX"
dsdsh create_mask "$(find "$OUT/subtomos" -name '*.mrc' -print -quit)" -o "$OUT/mask.mrc" \
    --sphere-radius $((BOX / 3)) --soft-edge 3
# shellcheck disable=SC2086
dsd train_tomo "$OUT/subtomos/particles.star" --poses "$OUT/subtomos/particles_pose_euler.pkl" -r "$OUT/mask.mrc" \
    --angpix "$APIX" --normalizectf -o "$OUT/run" $TRAIN

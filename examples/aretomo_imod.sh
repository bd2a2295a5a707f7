#!/usr/bin/env bash
# AreTomo and IMOD: a Dynamo table of picks, subtomograms from the aligned stacks, a first training.
set -euo pipefail

TABLE=${TABLE:-picks.tbl}                  # Dynamo table of the picks
TOMOGRAM_LIST=${TOMOGRAM_LIST:-picks.doc}  # numbers and names of its tomograms
SERIES=${SERIES:-series}                   # {name}.ali (or .st and .xf), .tlt, .order and defocus file per tomogram
TOMO_SIZE=${TOMO_SIZE:-4096 4096 1200}     # tomograms, pixels before binning
SERIES_APIX=${SERIES_APIX:-1.6}            # pixel size before binning, Angstrom
PICKS_APIX=${PICKS_APIX:-12.8}             # pixel size of the tomograms picked in
BOX=${BOX:-96}                             # subtomograms, pixels
APIX=${APIX:-6.4}                          # and Angstrom per pixel
OUT=${OUT:-opustomo_imod}
TRAIN=${TRAIN:---zdim 12 --estpose -n 20 -b 8}

mkdir -p "$OUT"
dsdsh convert_dynamo "$TABLE" --tomograms "$TOMOGRAM_LIST" --angpix "$PICKS_APIX" -o "$OUT/picks.star"
# shellcheck disable=SC2086  # sizes and training options are lists of words
dsd extract_subtomos "$OUT/picks.star" --tilts "$SERIES" --tomo-size $TOMO_SIZE --series-apix "$SERIES_APIX" \
    --coord-apix "$PICKS_APIX" --box "$BOX" --apix "$APIX" -o "$OUT/subtomos"

dsdsh prepare "$OUT/subtomos/particles.star" "$BOX" "$APIX"
dsdsh create_mask "$(find "$OUT/subtomos" -name '*.mrc' -print -quit)" -o "$OUT/mask.mrc" \
    --sphere-radius $((BOX / 3)) --soft-edge 3
# shellcheck disable=SC2086
dsd train_tomo "$OUT/subtomos/particles.star" --poses "$OUT/subtomos/particles_pose_euler.pkl" -r "$OUT/mask.mrc" \
    --angpix "$APIX" --normalizectf -o "$OUT/run" $TRAIN

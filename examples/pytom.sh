#!/usr/bin/env bash
# PyTom: particle lists, subtomograms cut from the tomograms picked in, CTF tables from IMOD's files, a first training.
set -euo pipefail

LISTS=${LISTS:-particle_lists}      # PyTom's XML files
TOMOGRAMS=${TOMOGRAMS:-tomograms}   # {name}.mrc, those picked in: weighted back-projection, no CTF correction
TILTS=${TILTS:-tilts}               # {name}.tlt, {name}.order and {name}_ctfplotter.defocus
BOX=${BOX:-96}                      # subtomograms, pixels of the tomograms
APIX=${APIX:-7.84}                  # pixel size of the tomograms, Angstrom
OUT=${OUT:-opustomo_pytom}
TRAIN=${TRAIN:---zdim 12 --estpose -n 20 -b 8}

mkdir -p "$OUT"
# a binning of 1 keeps coordinates in pixels of the tomograms
dsdsh convert_pytom_to_star --input-dir "$LISTS" --pixel-size "$APIX" --bin-size 1 --output "$OUT/picks.star"
cubes=()
for tomogram in "$TOMOGRAMS"/*.mrc; do
    name=$(basename "$tomogram" .mrc)
    dsdsh extract_tomo_cubes "$tomogram" "$OUT/picks.star" --tomo-col rlnMicrographName --box-size "$BOX" \
        --apix "$APIX" -o "$OUT/subtomos/$name" --prefix "$name" --out-star "$OUT/cubes_$name.star"
    cubes+=("$OUT/cubes_$name.star")
done
if [ ${#cubes[@]} -eq 1 ]; then
    cp "${cubes[0]}" "$OUT/cubes.star"
else
    dsdsh combine_star "${cubes[@]}" "$OUT/cubes.star"
fi
first=$(find "$TOMOGRAMS" -name '*.mrc' -print -quit)
size=$(python3 -c 'import struct, sys; print(*struct.unpack("<3i", open(sys.argv[1], "rb").read(12)))' "$first")
# shellcheck disable=SC2086  # sizes and training options are lists of words
dsd prepare_ctf "$OUT/cubes.star" --tilts "$TILTS" --tomo-size $size --apix "$APIX" -o "$OUT/ctf" \
    --out-star "$OUT/particles.star"

dsdsh prepare "$OUT/particles.star" "$BOX" "$APIX"
dsdsh create_mask "$(find "$OUT/subtomos" -name '*.mrc' -print -quit)" -o "$OUT/mask.mrc" \
    --sphere-radius $((BOX / 3)) --soft-edge 3
# shellcheck disable=SC2086
dsd train_tomo "$OUT/particles.star" --poses "$OUT/particles_pose_euler.pkl" -r "$OUT/mask.mrc" \
    --angpix "$APIX" --normalizectf -o "$OUT/run" $TRAIN

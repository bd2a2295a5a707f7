"""Commands that ``fuzz.py`` runs: valid command lines on a small set and a run, with their outputs and inputs."""

from __future__ import annotations

SMALL = (
    "--zdim 2 --zaffinedim 2 --templateres 32 --encoderres 8 -b 6 --lr 1e-3 --normalizectf --estpose --num-workers 1 "
    "--device cpu --seed 5 --log-interval 6 --valfrac 0.25"
)
TRAIN = f"dsd train_tomo set/particles.star -o out --poses set/poses.pkl -r set/mask.mrc {SMALL} -n 1"
RESUME = f"dsd train_tomo set/particles.star -o run --poses set/poses.pkl -r set/mask.mrc {SMALL} -n 3 --load latest"
LONG = f"dsd train_tomo set/particles.star -o out --poses set/poses.pkl -r set/mask.mrc {SMALL} -n 4"

COMMANDS: dict[str, tuple[str, str, tuple[str, ...]]] = {
    # name: (command line, output, inputs)
    "train": (TRAIN, "out", ("set/particles.star", "set/poses.pkl", "set/mask.mrc", "SUB", "CTF")),
    "resume": (RESUME, "run", ("run/state.pkl", "run/config.pkl", "set/particles.star", "SUB")),
    "check": (
        "dsd check set/particles.star --poses set/poses.pkl -r set/mask.mrc --normalizectf --json out.json",
        "out.json", ("set/particles.star", "set/poses.pkl", "set/mask.mrc", "SUB", "CTF"),
    ),
    "parse_pose_star": ("dsd parse_pose_star set/particles.star -D 24 --Apix 12 -o out.pkl", "out.pkl",
                        ("set/particles.star",)),
    "perturb": ("dsd parse_pose_star set/particles.star -D 24 -o out.pkl --perturb-rot 3 --perturb-trans 1", "out.pkl",
                ("set/particles.star",)),
    "by_labels": ("dsd parse_pose_star set/particles.star -D 24 --labels run/analyze.1/kmeans2/labels.pkl --outdir out "
                  "--poses run/pose.1.pkl", "out",
                  ("set/particles.star", "run/analyze.1/kmeans2/labels.pkl", "run/pose.1.pkl")),
    "prepare": ("dsdsh prepare set/particles.star 24 12", "set/particles_pose_euler.pkl", ("set/particles.star",)),
    "eval_vol": ("dsd eval_vol --load run/weights.1.pkl -o out --z-start 0 0 --z-end 1 1 -n 2", "out",
                 ("run/weights.1.pkl", "run/config.pkl")),
    "eval_file": ("dsd eval_vol --load run/weights.1.pkl -o out --zfile run/analyze.1/kmeans2/centers.txt --Apix 14",
                  "out", ("run/weights.1.pkl", "run/config.pkl", "run/analyze.1/kmeans2/centers.txt")),
    "analyze": ("dsdsh analyze run 1 1 2 --skip-umap", "run/analyze.1",
                ("run/z.1.pkl", "run/pose.1.pkl", "run/analyze.1/umap.pkl")),
    "pc_traversal": ("dsd pc_traversal run/z.1.pkl -o out", "out", ("run/z.1.pkl",)),
    "graph_traversal": ("dsd graph_traversal run/z.1.pkl --anchors 0 5 -o out/path.txt --out-z out/z.txt", "out",
                        ("run/z.1.pkl",)),
    "interpolate": ("dsd interpolate run/z.1.pkl --between 0 3 -o out.txt", "out.txt", ("run/z.1.pkl",)),
    "view_config": ("dsd view_config run", "out", ("run/config.pkl",)),
    "reconstruct": ("dsd reconstruct set/particles.star -o out/map.mrc --poses set/poses.pkl --normalizectf", "out",
                    ("set/particles.star", "set/poses.pkl", "SUB", "CTF")),
    "simulate": ("dsd simulate --builtin 50S -o out --box 16 -n 2 --tilt-step 20 --device cpu", "out", ()),
    "create_mask": ("dsdsh create_mask map.mrc -o out.mrc --dilate 1 --soft-edge 2", "out.mrc", ("map.mrc",)),
    "extract_tomo_cubes": ("dsdsh extract_tomo_cubes tomo.mrc picks.star --box-size 8 -o out --out-star out/p.star",
                           "out", ("tomo.mrc", "picks.star")),
    "parse_pose": ("dsdsh parse_pose set/particles.star 24 12 run 1 2", "run/analyze.1/kmeans2",
                   ("set/particles.star", "run/analyze.1/kmeans2/labels.pkl")),
    "select": ("dsdsh select set/particles.star run 1 -o out/some.star --near-particle 0 --nearest 3", "out",
               ("set/particles.star", "run/z.1.pkl")),
    "combine_star": ("dsdsh combine_star set/particles.star other.star out.star", "out.star",
                     ("set/particles.star", "other.star")),
    "convert_star": ("dsdsh convert_star set/particles.star 12 -o out.star", "out.star", ("set/particles.star",)),
    "convert_pytom_to_star": ("dsdsh convert_pytom_to_star --input list.xml -o out.star --pixel-size 8", "out.star",
                              ("list.xml",)),
    "decode_centers": ("dsdsh eval_vol run 1 kmeans 2 12", "run/analyze.1/kmeans2",
                       ("run/weights.1.pkl", "run/config.pkl", "run/analyze.1/kmeans2/centers.txt")),
    "convert_artiax": ("dsdsh convert_artiax picks.star tomo -o out.star", "out.star", ("picks.star",)),
    "dsd_analyze": ("dsd analyze run 1 --skip-vol --skip-umap --pc 1 --ksample 2 -o out", "out",
                    ("run/z.1.pkl", "run/pose.1.pkl", "run/config.pkl")),
    "validate": ("dsdsh validate run 1 2 --device cpu", "run/analyze.1/kmeans2",
                 ("run/analyze.1/kmeans2/labels.pkl", "run/weights.1.pkl", "run/config.pkl", "SUB", "CTF")),
    "report": ("dsdsh report run 1 -k 2 --skip-vol", "run/analyze.1",
               ("run/analyze.1/kmeans2/labels.pkl", "run/analyze.1/pc.pkl", "run/split.pkl")),
    "convergence": ("dsdsh convergence run -k 2", "run/convergence.csv", ("run/z.0.pkl", "run/z.1.pkl")),
}  # fmt: skip
SELDOM = {
    "analyze": 0.3,
    "dsd_analyze": 0.3,
    "validate": 0.3,
    "report": 0.3,
    "convergence": 0.3,
    "train": 2.0,
    "resume": 1.5,
}
"""Weights of commands in the draw; others have 1."""

"""Command lines of users of OPUS-TOMO, one case each, with the expected result and the differences.

``docs/write_differences.py`` renders this list; ``test_lines.py`` runs it. Words in braces stand for the data at hand:
``{data}`` for the folder, ``{box}`` and ``{apix}`` for box and pixel size of the subtomograms, ``{vol}`` for the pixel
size of volumes, ``{gpus}`` for a number of processes.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Line:
    """One command line.

    Attributes
    ----------
    words
        The line as it is typed.
    makes
        Files that it must write, relative to the folder where it is typed.
    ours
        What to type instead, where the line cannot run as it stands; empty: the line runs unchanged.
    before
        Shell lines that come before it: a folder to go to, an earlier command.
    says
        Texts that must appear in its output; they hold the stated differences.
    differs
        What a user of the original notices, for the page; empty: nothing.
    code
        Exit code.
    small
        Words added to a training to make it small; later words override those of the line.
    needs
        Program besides ours that the line runs.
    once
        The line takes long and is tried from one folder only.
    """

    words: str
    makes: tuple[str, ...] = ()
    ours: str = ""
    before: str = ""
    says: tuple[str, ...] = ()
    differs: str = ""
    code: int = 0
    small: str = ""
    needs: str = ""
    once: bool = False


_SET = "{data}/ribo.star --poses {data}/ribo_pose_euler.pkl"
_OPTIONS = (
    "-n 40 -b 8 --zdim 12 --lr 5.e-5 --num-gpus 4 --multigpu --beta-control 0.8 --beta cos -o {data}/ribo "
    "-r {data}/mask.mrc --downfrac 0.65 --valfrac 0.1 --lamb 0.8 --split ribo-split.pkl --bfactor 4. --templateres 160 "
    "--angpix {apix} --estpose --tmp-prefix ref --datadir {data}/"
)
_SHORT = "-b 8 --zdim 12 -r {data}/mask.mrc --angpix {apix} --estpose --valfrac 0.1"
_RESULTS = tuple(
    f"{{data}}/ribo/{name}" for name in ("weights.0.pkl", "z.0.pkl", "pose.0.pkl", "config.pkl", "run.log")
)
_MULTIGPU = (
    "If the machine has fewer GPUs than `--num-gpus` requests, the run uses those it finds and says so in the log."
)
_CHECKED = (
    "`--angpix` and the mask are compared with the headers of the subtomograms. If they differ by more than 1 %, the "
    "command is refused; `--force` overrides this check."
)
_TORCHRUN = "The package `cryodrgn` does not exist here. Type `$(which dsd) train_tomo` instead of `-m` and its module."
_HOROVOD = (
    "Horovod is not used. Replace `horovodrun -np` with `torchrun --nproc_per_node=` and `dsd` with `$(which dsd)`. "
    "Processes that horovodrun or mpirun start are refused with this advice."
)

TRAINING = (
    Line("dsdsh prepare {data}/consensus_data.star {box} {apix}", ("{data}/consensus_data_pose_euler.pkl",)),
    Line("dsdsh prepare {data}/consensus_data.star {box} {apix} --relion31", ("{data}/consensus_data_pose_euler.pkl",)),
    Line(
        "dsd parse_pose_star {data}/consensus_data.star -D {box} --Apix {apix} -o ribo-pose-euler.pkl",
        ("ribo-pose-euler.pkl",),
    ),
    Line(
        "dsd parse_pose_star {data}/consensus_data.star -D {box} --Apix {apix} -o ribo-pose-euler.pkl --relion31",
        ("ribo-pose-euler.pkl",),
    ),
    Line(
        "dsd parse_pose_star {data}/consensus_data.star -D {oddbox} --Apix {apix} -o ribo-pose-euler.pkl",
        ("ribo-pose-euler.pkl",),
        says=("is odd; ",),
        differs=("The command takes an odd box for the even box of the subtomograms and prints a note."),
    ),
    Line(
        f"dsd train_tomo {_SET} {_OPTIONS}",
        (*_RESULTS, "ribo-split.pkl", "{data}/ribo/ref.mrc"),
        says=("--multigpu is ignored because only one device is available", "--split ribo-split.pkl did not exist"),
        differs=f"{_MULTIGPU} {_CHECKED}",
    ),
    Line(
        f"dsd train_tomo {_SET} {_OPTIONS} --warp --tilt-range 50 --tilt-step 2 --ctfalpha 0. --ctfbeta 1. "
        "--downfrac 0.9 --float16",
        (*_RESULTS, "ribo-split.pkl", "{data}/ribo/ref.mrc"),
        says=("--tilt-range 50",),
        differs=(
            "The tilts come from the CTF tables; `--tilt-range` and `--tilt-step` are only compared "
            "with them. `--float16` has no effect, because the data type of the voxels is read from "
            "the files."
        ),
    ),
    Line(
        f"dsd train_tomo {_SET} {_OPTIONS}",
        before=f"dsd train_tomo {_SET} {_OPTIONS}",
        says=("contains the state of a run",),
        code=1,
        differs=(
            "A second start in the same folder is refused, so that no run is lost. `--overwrite` "
            "starts the run again, and `--load latest` resumes it."
        ),
    ),
    Line(
        "torchrun --nproc_per_node={gpus} -m cryodrgn.commands.train_tomo_dist {data}/ribo.star "
        f"--poses {{data}}/ribo_pose_euler.pkl --split {{data}}/deep.pkl -o . {_SHORT}",
        ("weights.0.pkl", "z.0.pkl", "{data}/deep.pkl"),
        ours="torchrun --nproc_per_node={gpus} $(which dsd) train_tomo {data}/ribo.star "
        f"--poses {{data}}/ribo_pose_euler.pkl --split {{data}}/deep.pkl -o . {_SHORT}",
        says=("{gpus} processes",),
        differs=_TORCHRUN,
        needs="torchrun",
        once=True,
    ),
    Line(
        f"horovodrun -np {{gpus}} dsd train_tomo_hvd {_SET} -o . {_SHORT}",
        ("weights.0.pkl", "z.0.pkl"),
        ours=f"torchrun --nproc_per_node={{gpus}} $(which dsd) train_tomo_hvd {_SET} -o . {_SHORT}",
        says=("{gpus} processes",),
        differs=_HOROVOD,
        needs="torchrun",
        once=True,
    ),
    Line(f"dsd train_tomo_hvd {_SET} {_OPTIONS}", _RESULTS),
    Line(f"dsd train_tomo_dist {_SET} {_OPTIONS}", _RESULTS),
    Line(
        "dsd train_tomo {data}/X30_subset1.star -n 40 -b 8 --zdim 12 -o {data}/ribo -r {data}/mask.mrc --angpix {apix} "
        "--datadir {data}/ --encode-mode fixed",
        ("{data}/X30_subset1.star", *_RESULTS),
        before="dsdsh convert_star {data}/X.star {apix} --subset-label 1",
    ),
    Line(
        f"dsd train_tomo {_SET} -n 40 -b 8 --lazy-single --pe-type vanilla --encode-mode grad --template-type conv "
        "--zdim 12 -o {data}/own -r {data}/mask.mrc --angpix {apix} --estpose --datadir {data}/ "
        "--load {data}/own/weights.0.pkl --latents {data}/own/z.0.pkl --split {data}/own-split.pkl",
        ("{data}/own/weights.1.pkl", "{data}/own/z.1.pkl"),
        says=("resuming at epoch 1", "--lazy-single has no effect", "--template-type has no effect"),
        small="-n 2",
        differs=(
            "Options that only concern the 2D ancestors have no effect; the log names them. If "
            "`state.pkl` beside the weights belongs to the same epoch, the state of the optimizer is "
            "restored too."
        ),
    ),
)

ANALYSIS = (
    Line(
        "dsdsh analyze {data}/sp 16 12 20",
        (
            "{data}/sp/analyze.16/umap.pkl",
            "{data}/sp/analyze.16/kmeans20/labels.pkl",
            "{data}/sp/defanalyze.16/pc1/z_pc.txt",
        ),
        says=("the latent has 4 dimension(s), so 4 traversals are written instead of 12",),
        differs=(
            "If more components are requested than the latent has dimensions, their number is "
            "reduced, and the command prints a note. UMAP runs with a fixed seed."
        ),
        once=True,
    ),
    Line(
        "dsdsh analyze {data}/sp 16 12 20 --skip-umap",
        ("{data}/sp/analyze.16/kmeans20/labels.pkl", "{data}/sp/analyze.16/pc12/z_pc.txt"),
    ),
    Line(
        "dsdsh analyze {data}/sp 16 12 30 --kpc 20:2-5,8",
        ("{data}/sp/analyze.filter.16/kmeans30/labels.pkl", "{data}/sp/defanalyze.filter.16/pc1/z_pc.txt"),
        once=True,
    ),
    Line(
        "dsdsh analyze {data}/sp 16 12 30 --kpc 20:2-5,8 --joint --skip-umap",
        ("{data}/sp/analyze.filter.16/kmeans30/centers_joint.txt",),
    ),
    Line("dsdsh eval_vol {data}/sp 16 kmeans 16 {vol}", ("{data}/sp/analyze.16/kmeans16/reference15.mrc",)),
    Line(
        "dsdsh eval_vol {data}/sp 16 kmeans 16 {vol} --flip",
        ("{data}/sp/analyze.16/kmeans16/reference15.mrc",),
        once=True,
    ),
    Line("dsdsh eval_vol {data}/sp 16 pc 1 {vol}", ("{data}/sp/analyze.16/pc1/reference9.mrc",)),
    Line(
        "dsdsh eval_vol {data}/sp 16 joint 16 {vol}",
        ("{data}/sp/analyze.16/kmeans16/reference15.mrc",),
        says=("has no bodies",),
        differs=("If the checkpoint has no bodies, the conformation moves nothing, and the command prints a note."),
        once=True,
    ),
    Line(
        "dsdsh eval_vol {data}/mb 16 joint 16 {vol}",
        ("{data}/mb/analyze.16/kmeans16/reference15.mrc",),
        once=True,
    ),
    Line(
        "dsdsh eval_vol {data}/sp filter.16 kmeans 30 {vol}",
        ("{data}/sp/analyze.filter.16/kmeans30/reference29.mrc",),
        once=True,
    ),
    Line(
        "dsdsh eval_vol . 16 dpc 1 {vol} --kmeans 16 --dfk 2 --masks ../mask2new.pkl",
        ("{data}/mb/defanalyze.16/pc1/reference9.mrc",),
        before="cd {data}/mb",
        says=("the checkpoint contains the geometry of its bodies",),
        differs=(
            "`--masks` and `--num-bodies` have no effect, because the checkpoint holds the geometry of its bodies."
        ),
        once=True,
    ),
    Line(
        "dsdsh eval_vol . 16 dpc 1 {vol} --kmeans 16 --dfk 2 --masks ../mask2new.pkl --num-bodies 2",
        ("{data}/mb/defanalyze.16/pc1/reference9.mrc",),
        before="cd {data}/mb",
        once=True,
    ),
    Line(
        "dsd eval_vol --load weights.39.pkl -c config.pkl -o kmeans_volumes --zfile analyze.39/kmeans20/centers.txt "
        "--Apix {vol} --prefix kmeans_cluster",
        ("{data}/sp/kmeans_volumes/kmeans_cluster19.mrc",),
        before="cd {data}/sp",
        once=True,
    ),
    Line(
        "dsd eval_vol --load weights.39.pkl -c config.pkl -o moving --zfile defanalyze.39/pc1/z_pc.txt --Apix {vol} "
        "--deform --masks ../mask2new.pkl --template-z analyze.39/kmeans20/centers.txt --template-z-ind 17",
        ("{data}/mb/moving/reference9.mrc",),
        before="cd {data}/mb",
        once=True,
    ),
    Line(
        "dsd eval_vol --load weights.39.pkl -c config.pkl -o moving --zfile defanalyze.39/pc1/z_pc.txt --Apix {vol} "
        "--deform --masks ../mask2new.pkl --template-z analyze.39/kmeans20/centers.txt --template-z-ind 17 "
        "--num-bodies 2",
        ("{data}/mb/moving/reference9.mrc",),
        before="cd {data}/mb",
        once=True,
    ),
    Line(
        "dsdsh parse_pose {data}/consensus_data.star {box} {apix} {data}/sp 16 20",
        ("{data}/sp/analyze.16/kmeans20/pre0.star", "{data}/sp/analyze.16/kmeans20/pre19.star"),
    ),
    Line(
        "dsdsh parse_pose {data}/consensus_data.star {box} {apix} {data}/sp 16 20 --relion31",
        ("{data}/sp/analyze.16/kmeans20/pre0.star", "{data}/sp/analyze.16/kmeans20/pre19.star"),
    ),
    Line(
        "dsd parse_pose_star ../consensus_data.star -D {box} --Apix {apix} --labels "
        "analyze.filter.16/kmeans30/labels.pkl --outdir analyze.filter.16/kmeans30/",
        ("{data}/sp/analyze.filter.16/kmeans30/pre0.star", "{data}/sp/analyze.filter.16/kmeans30/pre30.star"),
        before="cd {data}/sp",
    ),
    Line(
        "dsdsh combine_star pre9.star pre10.star temp1.star",
        ("{data}/sp/analyze.16/kmeans20/temp1.star",),
        before="dsdsh parse_pose {data}/consensus_data.star {box} {apix} {data}/sp 16 20\n"
        "cd {data}/sp/analyze.16/kmeans20",
    ),
    Line(
        "relion_reconstruct --i pre1.star --3d_rot",
        ("{data}/relion.mrc",),
        before="dsdsh parse_pose {data}/consensus_data.star {box} {apix} {data}/sp 16 20\n"
        "cd {data}\ncp sp/analyze.16/kmeans20/pre1.star .",
        needs="relion_reconstruct",
        differs=(
            "RELION 3.1 does not read MRC files in half precision. Export subtomograms in single "
            "precision if you want to reconstruct them with RELION."
        ),
        once=True,
    ),
    Line(
        'ChimeraX --script "movie.py reference 0.985"',
        ("played.txt",),
        before="cp {data}/series/pc1/reference*.mrc .\ncp {movie} .",
        needs="ChimeraX",
        differs=(
            "The script is installed as `analysis_scripts/movie.py`. Give its path, or copy it to the working folder."
        ),
    ),
)

PREPARATION = (
    Line(
        "dsdsh convert_pytom {data}/X.star TS_026",
        ("TS_026_norm.star",),
    ),
    Line("dsdsh convert_star {data}/X.star {apix}", ("{data}/X30.star",)),
    Line("dsdsh convert_star {data}/X.star {apix} --subset-label 1", ("{data}/X30_subset1.star",)),
    Line("dsdsh convert_star {data}/X.star {apix} --rescale-angpix {vol}", ("{data}/X30.star",)),
    Line("dsdsh convert_star {data}/X.star {apix} --remove-symexp", ("{data}/X30.star",)),
    Line("dsdsh convert_warp {data}/M.star {apix}", ("{data}/M_relion.star",)),
    Line("dsdsh convert_warp {data}/M.star {apix} --kv 300 --cs 2.7 -o OUT.star", ("OUT.star",)),
    Line("dsdsh convert_artiax {data}/X.star TS_026 --factor 2 --deduplicate", ("{data}/X_TS_026_artiax.star",)),
    Line(
        "dsdsh convert_pytom_to_star --input {data}/lists/X.xml --output O.star --pixel-size 7.84 --bin-size 4 "
        "--magnification 10000 --ctf-template '{ts_name}/{ts_name}_{i:06d}_ctf.star' --workers 10",
        ("O.star",),
        says=("the first is TS_026/TS_026_000001_ctf.star",),
        differs=(
            "`{i}` is the number of the particle in its tomogram, starting from 1. The command prints the first name."
        ),
    ),
    Line(
        "dsdsh convert_pytom_to_star --input-dir {data}/lists --pattern '*.xml' --output O.star --pixel-size 7.84 "
        "--bin-size 4 --magnification 10000 --workers 10",
        ("O.star",),
    ),
    Line(
        "dsdsh create_mask {data}/map.mrc -o newmask.mrc --percentile 97 --largest-component --dilate 2 --soft-edge 3",
        ("newmask.mrc",),
    ),
    Line("dsdsh extract_tomo_cubes {data}/TS_026.mrc {data}/X.star --box-size 16 -o cubes", ("cubes/cube_000001.mrc",)),
    Line(
        "dsdsh prepare_multi {data}/X.star {box} {apix} {data}/bodies.star 2",
        ("{data}/X_pose_euler.pkl", "mask_params.pkl"),
    ),
    Line(
        "dsdsh prepare_multi {data}/X.star {box} {apix} {data}/bodies.star 2 --outmasks mask2new --volumes "
        "{data}/series/pc1 --origin-rel 1",
        ("{data}/X_pose_euler.pkl", "mask2new.pkl"),
    ),
    Line(
        "dsd analyze_dynamics {data}/sp/analyze.16/pc* --masks {data}/bodies.star --num-volumes 10",
        before="cp {data}/series/pc1/reference*.mrc {data}/sp/analyze.16/pc1/",
        says=("1. ", "pc.pkl"),
        differs=(
            "Paths that match the pattern but hold no volumes, such as `pc.pkl`, are left out, and "
            "the command prints their names."
        ),
    ),
    Line(
        "dsd analyze_dynamics {data}/sp/analyze.16/pc* --masks {data}/bodies.star --num-volumes 10 -o table.txt "
        "--verbose",
        ("table.txt",),
        before="cp {data}/series/pc1/reference*.mrc {data}/sp/analyze.16/pc1/",
    ),
    Line(
        "sh do_all_reconstruct_ctfs.sh {box}",
        ("ctf/TS_1/TS_1_000001_ctf.mrc",),
        before="dsd prepare_ctf {data}/tilts -o ctf --apix 5 --tomo-size 400 300 120 --workers 1\ncd ctf",
        needs="relion_reconstruct",
        differs="`dsd prepare_ctf` takes the place of `relion_ctf_prepare.py`; it writes the script beside its tables.",
        once=True,
    ),
)

SECTIONS = {"Training": TRAINING, "Analysis": ANALYSIS, "Preparation and conversion": PREPARATION}
LINES = tuple(line for lines in SECTIONS.values() for line in lines)

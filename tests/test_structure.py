"""The house keeps its shape: who may import whom, what a notebook may hold, what may not exist."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

import content

ROOT = Path(__file__).parents[1]
STAGE_1 = {
    "noise_level",
    "noise_bands",
    "noise_law",
    "noise_correlation",
    "noise_report",
    "blind_spot",
    "posterior",
    "preliminary",
}
STAGE_2 = {"synthesis"}
STAGE_3 = {
    "attention",
    "attention_triton",
    "attention_kernels",
    "attention_operator",
    "attention_whole",
    "transformer",
    "profound",
}
ALLOWED = {  # module: the modules of mptpn that it may import
    "__init__": set(),
    "images": set(),
    "writer": {"images", "scans"},  # scans: its type only
    "scans": {"writer"},
    "formats": {"scans"},
    "dicom_files": {"scans"},
    "files": {"images", "scans", "formats", "dicom_files"},
    "embedded": {"images"},
    "archive": set(),
    "datasets": {"files", "images", "metrics"},
    "noise": set(),
    "noise_models": {"noise"},
    "training": {"cuda_graph", "images"},
    "cuda_graph": set(),
    "photographs": {"noise", "training"},
    "pretrained": {"metrics", "profound", "transformer", "weights"},
    "weights": {"images"},
    "likeness": {"noise", "noise_models"},
    "amplified": {"images", "likeness", "noise", "noise_models"},
    "metrics": set(),
    "figures": {"images", "metrics"},
    "quality": {"metrics", "noise", "noise_models"},
    "peers": {"noise_models"},
    "comparison": {
        "datasets",
        "images",
        "metrics",
        "noise_models",
        "noise_report",
        "peers",
        "profound",
        "stages",
        "whitened",
    },
    "whitened": {"noise", "noise_models", "profound"},
    "safety": {"noise"},
    "refinement": {"images", "noise", "noise_level", "noise_models"},
    "posterior": set(),
    "calibration": set(),
    "blind_spot": {"noise", "training"},
    "noise_level": {"images", "noise", "training", "weights"},
    "noise_bands": {"noise_level"},
    "noise_report": {"noise", "noise_bands", "noise_law", "noise_correlation", "noise_level", "noise_models"},
    "noise_correlation": {"noise_bands", "noise_level"},
    "noise_law": {"noise", "noise_models"},
    "preliminary": {"images", "noise", "noise_models", "training", "blind_spot", "noise_level", "posterior"},
    "stages": {
        *(
            "amplified",
            "images",
            "noise",
            "noise_bands",
            "noise_models",
            "noise_report",
            "blind_spot",
            "preliminary",
            "synthesis",
            "transformer",
            "profound",
            "training",
            "weights",
        )
    },
    "tiling": {"blind_spot", "transformer"},
    "trust": {"noise_bands", "noise_correlation", "noise_models", "noise_report"},
    "validity": {"noise", "noise_level", "noise_models", "tiling"},
    "denoiser": {
        *(
            "stages",
            "preliminary",
            "profound",
            "noise_report",
            "door",
            "tiling",
            "training",
            "weights",
            "validity",
            "noise",
            "noise_models",
        ),
        *("blind_spot", "transformer", "noise_bands", "noise_level", "whitened"),
    },
    "denoised": {"denoiser", "trust", "quality", "metrics", "validity", "noise", "noise_models", "noise_report"},
    "door": {
        *("noise_level", "validity", "stages", "profound", "refinement", "noise_report", "noise_models", "noise"),
        *("files", "images", "embedded", "weights"),
    },
    "public": {"door", "denoised", "pretrained"},
    "series": {
        "noise_level",
        "validity",
        "figures_explore",
        "denoised",
        "tiling",
        "denoiser",
        "files",
        "images",
        "noise_report",
        "stages",
        "weights",
    },
    "figures_explore": {"figures"},
    "trials": {"peers", "series", "denoised", "denoiser", "files", "images", "noise", "noise_models", "trust"},
    "explore": {"figures_explore", "scans", "trials"},
    "__main__": {"door", "files", "series", "training"},
    "synthesis": {"images", "noise", "noise_models", "training"},
    "attention_kernels": set(),
    "attention_operator": set(),
    "attention_triton": {"attention_kernels", "attention_operator"},
    "attention": {"attention_triton", "attention_kernels", "attention_operator"},
    "attention_whole": set(),
    "transformer": {"attention", "attention_whole"},
    "timing": set(),
    "benchmark": {"timing", "attention", "attention_triton", "attention_whole", "transformer"},
    "profound": {"noise", "training", "transformer"},
    "bicubic": set(),
    "hashed_kernels": set(),
    "hashed_triton": {"hashed_kernels"},
    "hashed_attention": {"noise", "hashed_triton"},
    "super_resolution": {"bicubic", "hashed_attention", "weights"},
    "super_resolution_inference": {"bicubic", "metrics", "tiling"},
    "super_resolution_sets": {"archive", "bicubic", "datasets", "files"},
    "super_resolution_training": {"bicubic", "images", "noise", "training"},
}
SUPER_RESOLUTION = {
    *("bicubic", "hashed_attention", "hashed_triton", "hashed_kernels"),
    *("super_resolution", "super_resolution_inference", "super_resolution_sets", "super_resolution_training"),
}
MODULES = sorted(path.stem for path in (ROOT / "mptpn").glob("*.py"))
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def imports_of(module: str) -> set[str]:
    return content.imported_modules((ROOT / f"mptpn/{module}.py").read_text()) - {"__init__"}


def code_cells(path: Path) -> list[dict]:
    return [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]


def forbidden_imports(module: str, imported: set[str]) -> set[str]:
    return imported - ALLOWED[module]


@pytest.mark.parametrize("module", MODULES)
def test_module_imports_only_what_it_may(module):
    assert module in ALLOWED, f"say in ALLOWED what {module} may import"
    assert not forbidden_imports(module, imports_of(module))


@pytest.mark.parametrize("stage", [STAGE_1, STAGE_2, STAGE_3, SUPER_RESOLUTION])
def test_stages_never_import_each_other(stage):
    others = (STAGE_1 | STAGE_2 | STAGE_3 | SUPER_RESOLUTION) - stage
    assert not {module: ALLOWED[module] & others for module in stage if ALLOWED[module] & others}


def test_networks_know_no_figure_and_figures_no_network():
    networks = STAGE_1 | STAGE_2 | STAGE_3
    assert not any("figures" in ALLOWED[module] for module in networks) and not ALLOWED["figures"] & networks


def test_planted_import_between_stages_is_found():
    source = "def f():\n    from .synthesis import pairs\n    import mptpn.transformer\n"
    assert forbidden_imports("preliminary", content.imported_modules(source) - {"__init__"}) == {
        "synthesis",
        "transformer",
    }


@pytest.mark.parametrize("module", MODULES)
def test_only_figures_draws(module):
    nodes = list(ast.walk(ast.parse((ROOT / f"mptpn/{module}.py").read_text())))
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    names |= {
        f"{node.module}.{alias.name}" for node in nodes if isinstance(node, ast.ImportFrom) for alias in node.names
    }
    # its sample images
    drawing = {name for name in names if name.split(".")[0] in ("matplotlib", "seaborn")} - {"matplotlib.cbook"}
    assert module.startswith("figures") or not drawing


def test_no_module_takes_any_keyword_and_none_is_a_drawer_of_odds_and_ends():
    assert not set(MODULES) & {"util", "utils", "helper", "helpers", "misc", "common", "config", "registry"}
    for module in MODULES:
        nodes = ast.walk(ast.parse((ROOT / f"mptpn/{module}.py").read_text()))
        assert not [
            node.name for node in nodes if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and node.args.kwarg
        ], module


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_defines_nothing(path):
    for cell in code_cells(path):
        assert not [
            n
            for n in ast.walk(ast.parse(content.without_magics("".join(cell["source"]))))
            if isinstance(n, (ast.FunctionDef, ast.ClassDef))
        ]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_is_stripped_but_for_the_outputs_that_nbval_compares(path):
    keys = "metadata.papermill metadata.widgets cell.metadata.papermill metadata.language_info.version"
    command = [
        sys.executable,
        "-m",
        "nbstripout",
        "--verify",
        "--keep-id",
        "--keep-count",
        "--extra-keys",
        keys,
        str(path),
    ]
    subprocess.run(command, check=True)
    for cell in code_cells(path):
        compared = "NBVAL_CHECK_OUTPUT" in "".join(cell["source"])
        assert compared == ("keep_output" in cell["metadata"].get("tags", []))
        # nbval compares nothing in a cell without a count
        assert compared == bool(cell["outputs"]) == (cell["execution_count"] is not None)

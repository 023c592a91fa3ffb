"""The groups of rows: each a module of this folder, run alone or with the others."""

__all__ = ["GROUPS"]

GROUPS = {
    "startup": "Import and cold start",
    "fully_connected": "Ensembles of fully-connected networks",
    "convolution": "Ensembles of convolutional networks",
    "sensitivity": "S, its exact limit, the Jacobian norm",
    "tangent": "Tangent sensitivity",
    "norms": "Path, spectral and operator norms",
    "perturbations": "1000 perturbations",
    "crossings": "Exact crossings",
    "survey": "Many small networks as one program",
    "growth": "How cost grows",
}

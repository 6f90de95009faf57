"""The shared vocabulary: what a family is (`FamilySpec`) and what a bundle holds (`Manifest`).

Standard library only: every package of the project may import this one.
"""

from family.errors import BundleError, FamilialError, ManifestError, SpecError
from family.manifest import Manifest, load_manifest, save_manifest, verify_files
from family.spec import Base, Exit, FamilySpec, Segment, load_spec, save_spec

__all__ = [
    "Base",
    "BundleError",
    "Exit",
    "FamilialError",
    "FamilySpec",
    "Manifest",
    "ManifestError",
    "Segment",
    "SpecError",
    "load_manifest",
    "load_spec",
    "save_manifest",
    "save_spec",
    "verify_files",
]

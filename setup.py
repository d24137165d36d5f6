"""Build the compiled modules: each ext/NAME.pyx becomes fastmta._ext.NAME.

Environment:
  FASTMTA_EXT    build only these modules (comma-separated names)
  FASTMTA_DEBUG  bounds checks, assertions and no optimisation

Cython finds `cimport fastmta._ext.x` through build/cyinclude, where fastmta/_ext points at ext/.
"""

from __future__ import annotations

import os
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup

ROOT = Path(__file__).parent
DEBUG = bool(os.environ.get("FASTMTA_DEBUG"))


def include_dir() -> str:
    """The folder for Cython's include path, with fastmta/_ext linked to ext/."""
    package = ROOT / "build" / "cyinclude" / "fastmta"
    package.mkdir(parents=True, exist_ok=True)
    (package / "__init__.pxd").touch()
    link = package / "_ext"
    if not link.is_symlink() or link.resolve() != (ROOT / "ext").resolve():  # a checkout may be moved or copied
        link.unlink(missing_ok=True)
        link.symlink_to(Path("../../../ext"))
    return str(ROOT / "build" / "cyinclude")


def extensions() -> list[Extension]:
    """One extension for each .pyx, or for those that FASTMTA_EXT names."""
    only = {name for name in os.environ.get("FASTMTA_EXT", "").split(",") if name}
    return [
        Extension(
            f"fastmta._ext.{path.stem}",
            [path.relative_to(ROOT).as_posix()],
            include_dirs=["ext"],
            extra_compile_args=["-O0", "-g"] if DEBUG else ["-O3", "-fno-plt"],
            extra_link_args=["-pthread"],
        )
        for path in sorted((ROOT / "ext").glob("*.pyx"))
        if not only or path.stem in only
    ]


os.chdir(ROOT)
setup(
    ext_modules=cythonize(
        extensions(),
        include_path=[include_dir()],
        build_dir="build/cython",
        compiler_directives={
            "language_level": "3str",
            "boundscheck": DEBUG,
            "wraparound": DEBUG,
            "initializedcheck": DEBUG,
            "cdivision": True,
            "embedsignature": True,
            "freethreading_compatible": False,
        },
    ),
)

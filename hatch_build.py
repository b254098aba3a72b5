"""Compiles the hot path with mypyc when a wheel is built, where there is a C compiler.

PABAL_COMPILE=0 leaves it out, PABAL_COMPILE=1 fails when it cannot be done; else a wheel that could not be compiled
is one of plain Python, which does the same at about half the speed. An editable install is never compiled: it would
go on running what was compiled when its sources have long been changed.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

PACKAGES = ("wire/amqp091", "model", "broker", "store", "session/amqp091")
MODULES = ("server/turn.py",)
LEFT_OUT = ("store/memory.py", "store/check.py", "store/audit.py")
"""Not hot; the one is subclassed by tests, the others run by their names."""
REQUIREMENTS = ["mypy>=1.20,<3", "setuptools>=70"]


class CustomBuildHook(BuildHookInterface):  # type: ignore[type-arg]
    def dependencies(self) -> list[str]:
        """What the build needs besides hatchling."""
        return REQUIREMENTS if self._wanted() else []

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if version == "editable" or not self._wanted():
            return
        root = Path(self.root)
        target = root / "build" / "mypyc"
        try:
            modules = compile_into(root / "src", target)
        except (OSError, subprocess.CalledProcessError) as error:
            if os.environ.get("PABAL_COMPILE") == "1":
                raise
            self.app.display_warning(f"not compiled, plain Python instead: {error}")
            return
        build_data["pure_python"] = False
        build_data["infer_tag"] = True
        build_data["force_include"].update({str(target / module): str(module) for module in modules})

    def _wanted(self) -> bool:
        setting = os.environ.get("PABAL_COMPILE", "")
        return self.target_name == "wheel" and (setting == "1" or (setting != "0" and has_compiler()))


def has_compiler() -> bool:
    """There is a C compiler, and the headers of this Python."""
    compiler = (sysconfig.get_config_var("CC") or "cc").split()[0]
    return shutil.which(compiler) is not None and (Path(sysconfig.get_path("include")) / "Python.h").exists()


def compile_into(source: Path, target: Path) -> list[Path]:
    """Compiles the modules of the hot path; returns the extension modules in `target`, relative to it.
    CalledProcessError when that fails."""
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source, target, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    command = [sys.executable, str(Path(__file__).resolve()), "build_ext", "--inplace"]
    done = subprocess.run(
        command, cwd=target, env={**os.environ, "MYPYPATH": "."}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    if done.returncode:
        print(done.stdout.decode(errors="replace")[-4000:], file=sys.stderr)
        raise subprocess.CalledProcessError(done.returncode, "mypyc")
    shutil.rmtree(target / "build")
    return [path.relative_to(target) for path in target.rglob("*.so")]


def hot_path(source: Path) -> list[str]:
    """The modules that are compiled."""
    root = source / "pabal"
    paths = [path for package in PACKAGES for path in sorted((root / package).glob("[!_]*.py"))]
    paths += [root / module for module in MODULES]
    return [str(path) for path in paths if path.relative_to(root).as_posix() not in LEFT_OUT]


def _set_up() -> None:
    """What setuptools runs, in a copy of src."""
    from mypyc.build import mypycify
    from setuptools import setup

    extensions = mypycify(
        ["--strict", "--ignore-missing-imports", "--config-file=", *hot_path(Path())],
        opt_level="3",
        debug_level="0",
        group_name="pabal",
    )
    setup(name="pabal", packages=[], ext_modules=extensions)


if __name__ == "__main__":
    _set_up()

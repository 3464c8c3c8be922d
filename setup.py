"""The metadata of the relayd distribution; tool settings are in pyproject.toml."""

from __future__ import annotations

import pathlib
import re

from setuptools import find_packages, setup

HERE = pathlib.Path(__file__).resolve().parent


def version() -> str:
    """The version that relayd/__init__.py states, read without importing relayd."""
    source = (HERE / "relayd" / "__init__.py").read_text(encoding="utf-8")
    found = re.search(r'^__version__ = "([^"]+)"$', source, re.MULTILINE)
    if found is None:
        raise SystemExit("relayd/__init__.py states no __version__")
    return found.group(1)


# Runtime dependencies; the minimum versions are those of Debian 12.
RUNTIME = ["tornado>=6.2", "pycurl>=7.45.2", "PyYAML>=6.0", "statsd>=4.0", "cryptography>=38.0.4"]
# `acme`: certificates by `tls.acme`; `dns`: discovery by DNS; `jwt`: tokens of consumers; `redis`: the store of that
# kind. The others are development dependencies by target of the Makefile; tests/constraints.txt has the pins.
EXTRAS = {
    "acme": ["acme>=2.1"],
    "dns": ["dnspython>=2.3"],
    "jwt": ["PyJWT>=2.6"],
    "redis": ["redis>=4.3.4"],
    "test": [
        "acme>=2.1", "dnspython>=2.3", "PyJWT>=2.6", "redis>=4.3.4",
        "pytest", "pytest-tornasync", "pytest-xdist", "hypothesis", "h11", "httptools",
        "h2", "openai", "anthropic", "websockets", "prometheus-client", "coverage", "crossplane", "python-dotenv",
        "opentelemetry-proto", "pyte",
    ],
    "lint": ["mypy", "ruff", "types-PyYAML"],
    "bench": ["aiohttp", "uvloop"],
}

setup(
    name="relayd",
    version=version(),
    description="AI gateway and reverse proxy in one event-driven process",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    author="relayd maintainers",
    license="MIT",
    python_requires=">=3.11",
    install_requires=RUNTIME,
    extras_require=EXTRAS,
    packages=find_packages(include=["relayd", "relayd.*"]),
    # Data files of the packages.
    package_data={"": ["*.html", "*.css", "*.js", "*.svg", "*.json", "py.typed"]},
    entry_points={"console_scripts": ["relayd=relayd.__main__:entry"]},
    classifiers=[
        "Environment :: No Input/Output (Daemon)",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3",
        "Topic :: Internet :: Proxy Servers",
    ],
    zip_safe=False,
)

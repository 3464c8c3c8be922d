#!/bin/sh
# Installs the programs that the tests in tests/clients/ drive: SDKs for Python into the given interpreter's environment,
# SDKs, coding agents and suites for Node into a folder. Usage: install.sh [FOLDER [PYTHON]]. What cannot be had is
# left out with a word, and its tests skip. No install script of a package is run; the agents are native binaries.
set -u

folder=${1:-build/clients}
python=${2:-.venv/bin/python}

for package in openai websockets openai-agents anthropic google-genai langchain-openai ollama selenium openapi-spec-validator \
    schemathesis; do
    "$python" -m pip --disable-pip-version-check --quiet install --only-binary :all: "$package" 2>/dev/null \
        || echo "install.sh: $package cannot be installed; its tests will skip" >&2
done

command -v chromium >/dev/null && command -v chromedriver >/dev/null \
    || echo "install.sh: no chromium and chromium-driver; the tests of the pages will skip" >&2

if ! command -v npm >/dev/null; then
    echo "install.sh: no npm; the tests of Node programs will skip" >&2
    exit 0
fi
mkdir -p "$folder"
cd "$folder" || exit 1
test -f package.json || echo '{"name": "clients", "private": true}' >package.json
for package in openai @anthropic-ai/sdk ai @ai-sdk/openai @ai-sdk/anthropic @ai-sdk/openai-compatible zod tsx llmprobe \
    @openai/codex @anthropic-ai/claude-code axe-core; do
    test -d "node_modules/$package" && continue
    npm install --silent --no-audit --no-fund --ignore-scripts --save "$package" >/dev/null 2>&1 \
        || echo "install.sh: $package cannot be installed; its tests will skip" >&2
done
exit 0

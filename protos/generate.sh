#!/usr/bin/env bash
# Generate relay/v1/ from protos/. `protos/generate.sh DIR` writes elsewhere: CI compares that with what is committed.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
out=${1:-$root}
mkdir -p "$out"
cd "$root"
python -m grpc_tools.protoc -I protos \
  --python_out="$out" --grpc_python_out="$out" --mypy_out="$out" --mypy_grpc_out="$out" \
  protos/relay/v1/relay.proto

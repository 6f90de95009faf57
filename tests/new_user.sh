#!/bin/sh
# A new user's path: what README.md, --help and the errors say, followed step by step with the installed commands.
# The source is not needed: run it in any folder, with `relay` on the PATH and a bundle.
#
#   BUNDLE=path/to/bundle sh new_user.sh
set -eu
: "${BUNDLE:?say where the bundle is: BUNDLE=path/to/bundle sh new_user.sh}"
PORT=${PORT:-7101}
NODE=localhost:$((PORT))
work=$(mktemp -d)
nodes=
trap 'kill $nodes 2>/dev/null || true; wait; rm -rf "$work"' EXIT

say() { printf '\n# %s\n' "$*"; }
stop() { echo "FAILED: $*" >&2; exit 1; }
shows() { # TEXT COMMAND...: the command works, and its output has TEXT
    text=$1; shift
    "$@" >"$work/out" 2>"$work/err" </dev/null || stop "$* ended with an error: $(cat "$work/err")"
    grep -qF -e "$text" "$work/out" || stop "$* does not show: $text"
}
refuses() { # TEXT COMMAND...: the command fails with one line that has TEXT, and exit status 2
    text=$1; shift
    status=0; "$@" >"$work/out" 2>"$work/err" </dev/null || status=$?
    [ "$status" = 2 ] || stop "$* ended with status $status, expected 2"
    tail -n 1 "$work/err" | grep -qF -e "$text" || stop "$* says: $(cat "$work/err"), expected: $text"
}
start() { # NAME ARGUMENTS...: a node, once it says that it is ready
    name=$1; shift
    : >"$work/$name"
    relay-node "$@" >"$work/$name" 2>"$work/$name.log" &
    nodes="$nodes $!"
    for _ in $(seq 600); do
        grep -q '^ready: ' "$work/$name" && return
        kill -0 $! 2>/dev/null || stop "relay-node $* ended: $(cat "$work/$name.log")"
        sleep 0.1
    done
    stop "relay-node $* is not ready: $(cat "$work/$name.log")"
}

say "What is there? --help tells, at every level."
shows "generate" relay --help
shows "--temperature" relay generate --help
shows "talk to the model" relay --help
shows "--upstream HOST:PORT" relay-node --help

say "Asking before anything runs: the error says what to do."
refuses "no relay node answers at $NODE; start one there, or correct the address" relay generate "Hello" --node "$NODE"

say "Starting with guesses: the errors name what there is."
refuses "the following arguments are required" relay
refuses "tier" relay-node --bundle "$BUNDLE"
refuses "it has device (segments 1-1), edge (segments 2-2), cloud (segments 3-3)" \
    relay-node --tier phone --bundle "$BUNDLE" --listen localhost:0
refuses "nowhere" relay-node --tier device --bundle "$work/nowhere" --listen localhost:0

say "One node alone serves its own exit, and says which others are out of reach."
start alone --tier device --bundle "$BUNDLE" --listen "localhost:$((PORT + 3))"
shows "" relay generate "Hello" --max-tokens 4 --node "localhost:$((PORT + 3))"
refuses "no upstream; start it with --upstream HOST:PORT, or ask for an exit up to 1" \
    relay generate "Hello" --exit 3 --node "localhost:$((PORT + 3))"

say "Three nodes, from the far end."
start cloud --tier cloud --bundle "$BUNDLE" --listen "localhost:$((PORT + 2))"
start edge --tier edge --bundle "$BUNDLE" --listen "localhost:$((PORT + 1))" --upstream "localhost:$((PORT + 2))"
start device --tier device --bundle "$BUNDLE" --listen "$NODE" --upstream "localhost:$((PORT + 1))"
shows "cloud" relay describe --node "$NODE"
shows "" relay health --node "$NODE"

say "Texts: at one exit, at exits drawn, at the first that is sure; sampled; several at once."
export RELAY_NODE="$NODE"
shows '"exit": 2' relay generate "The tide comes in" --exit 2 --max-tokens 4 --json
shows "" relay generate "The tide comes in" --schedule 7 --max-tokens 8 --chat
shows "" relay generate "The tide comes in" --confidence 0.5 --statistic margin --max-tokens 8
shows "" relay generate "The tide comes in" --temperature 0.8 --top-p 0.95 --seed 7 --max-tokens 8
cp "$work/out" "$work/first"
shows "" relay generate "The tide comes in" --temperature 0.8 --top-p 0.95 --seed 7 --max-tokens 8
cmp -s "$work/first" "$work/out" || stop "one seed gave two texts"
shows "[2 of 2]" relay generate "The tide comes in" --samples 2 --temperature 1 --max-tokens 8

say "A conversation."
printf 'Why is the sky blue?\n/policy exit 1\nAnd at night?\n/exit\n' | relay chat --max-tokens 8 >"$work/out"
[ -s "$work/out" ] || stop "relay chat said nothing"

say "Mistakes: each error says what to change."
refuses "exit 9 is unknown; this family has exits 1..3" relay generate "Hello" --exit 9
refuses "temperature cannot be -1.0; give 0 (greedy) or more" relay generate "Hello" --temperature -1
refuses "give a larger timeout" relay generate "Hello" --timeout 0.000001
refuses "leave the penalties out, or choose a policy" relay generate "Hello" --repetition-penalty 1.2
shows "| \`ids-unknown\` |" relay errors

say "The same from Python."
python3 - "$NODE" <<'PYTHON'
import sys

from relay import ConfidenceExit, RelayClient, RelayError

with RelayClient(sys.argv[1]) as client:
    stream = client.generate("The tide comes in", policy=ConfidenceExit(0.5), temperature=0.7, max_tokens=8)
    assert [token.position for token in stream] and stream.finish and stream.seed
    try:
        list(client.generate("The tide comes in", top_p=2.0))
    except RelayError as error:
        assert "top_p cannot be 2.0" in str(error)
PYTHON

say "Settings: where each comes from."
shows 'RELAY_NODE' relay config
shows 'tier = "edge"' relay-node --print-config --tier edge --bundle "$BUNDLE"
shows "complete" relay --print-completion bash

say "All of it works."

#!/usr/bin/env bash
# The family in families/smollm2-135m-g3, as it was trained on two CPU cores: from the root of the repository, with
# $FAMILIAL_DATA and an empty folder to work in. Stopped runs go on with the same command.
set -euo pipefail
work=${1:?a folder to work in}
text=${FAMILIAL_DATA:?the folder of the data sets}/text
mkdir -p "$work"
sample-text --chat 1.5 --tokens 87000 --batch 96 --out "$work/own.jsonl" --prompts \
  "$text/gsm8k/train.jsonl=0.3" "$text/wikitext-2/train.txt=0.3" \
  "$text/lambada/lambada_development_plain_text.txt=0.2" "$text/tinyshakespeare/input.txt=0.1"
train-family --layers 10,24,30 --tokens 5000000 --passes 5 --every 4 --out "$work/smollm2-135m-g3" --text \
  "$work/own.jsonl=0.25" "$text/gsm8k/train.jsonl=0.3" "$text/wikitext-2/train.txt=0.27" \
  "$text/lambada/lambada_development_plain_text.txt=0.14" "$text/tinyshakespeare/input.txt=0.04" \
  --eval "$text/wikitext-2/test.txt" "$text/gsm8k/test.jsonl" --eval-tokens 16385
eval-family "$work/smollm2-135m-g3" --text "$text/wikitext-2/test.txt" \
  --continuations "$text/spec-bench/question.jsonl" --out "$work/eval.json"

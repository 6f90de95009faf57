#!/usr/bin/env bash
# The same family on a GPU: 30 million tokens once, half of them the base's own, every position with its loss, frozen
# trunk and LoRA in turn. From the root of the repository, with $FAMILIAL_DATA and an empty folder to work in. Stopped
# runs go on with the same command.
set -euo pipefail
work=${1:?a folder to work in}
text=${FAMILIAL_DATA:?the folder of the data sets}/text
mkdir -p "$work"
sample-text --chat 1.5 --tokens 5000000 --batch 512 --out "$work/own.jsonl" --prompts \
  "$text/gsm8k/train.jsonl=0.3" "$text/wikitext-2/train.txt=0.3" \
  "$text/lambada/lambada_development_plain_text.txt=0.2" "$text/tinyshakespeare/input.txt=0.1"
for trunk in frozen lora; do
  extra=()
  [ "$trunk" = lora ] && extra=(--trunk lora --lora-rank 16)
  train-family --layers 10,24,30 --tokens 30000000 --every 1 --batch 32 --out "$work/smollm2-135m-g3-$trunk" \
    "${extra[@]}" --text \
    "$work/own.jsonl=0.5" "$text/gsm8k/train.jsonl=0.2" "$text/wikitext-2/train.txt=0.18" \
    "$text/lambada/lambada_development_plain_text.txt=0.09" "$text/tinyshakespeare/input.txt=0.03" \
    --eval "$text/wikitext-2/test.txt" "$text/gsm8k/test.jsonl" --eval-tokens 16385
  eval-family "$work/smollm2-135m-g3-$trunk" --text "$text/wikitext-2/test.txt" \
    --continuations "$text/spec-bench/question.jsonl" --out "$work/eval-$trunk.json"
done

#!/usr/bin/env bash
# The demo: a real dataset from text every machine has, two models, one comparison. Run again, it re-uses what is there.
set -euo pipefail
bin=${BIN:-.venv/bin}                   # overrides of both models may follow, e.g. phases.0.duration.steps=20
splits=${SPLITS:-valid=0.05,test=0.05}  # of the bytes

"$bin/hierlm" data stdlib --output data/demo --splits "$splits"
for model in transformer hourglass; do
  "$bin/hierlm" train "configs/demo/$model.yaml" "$@"
  "$bin/hierlm" eval "runs/demo-$model" --split test
done
"$bin/hierlm" compare demo --html runs/demo-report.html
echo "plots: runs/demo-report.html"

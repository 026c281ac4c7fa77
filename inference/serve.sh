#!/bin/sh
# Serve the models that CAPTION_MODEL and EMBEDDING_MODELS name, set as for a processor.
set -eu
for model in $(echo "${CAPTION_MODEL:-gemma3},${EMBEDDING_MODELS:-clip}" | tr , ' '); do
    test "$model" != florence2 || model=florence2base # its name in Triton
    set -- "$@" "--load-model=$model"
done
exec tritonserver --model-repository=/models/model_repository --disable-auto-complete-config \
    --model-control-mode=explicit "$@"

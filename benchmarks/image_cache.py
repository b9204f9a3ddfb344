"""How much faster an epoch gets when a frozen tower's features come from disk: `model.cache_image_embeds`.

One run of three epochs over the same rows, the projector trained: in the first the tower runs and its features are
written, in the others they are read. The tower has the shape of InternViT-300M, the language model that of
SmolLM2-135M, both with random weights; nothing is downloaded.

    python benchmarks/image_cache.py [--num-rows 16]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

RECIPE = """\
# Three epochs of pictures, one tile of 448 x 448 pixels each, before a frozen tower
model:
  family: stitched
  init: random
  tokenizer: builtin:bytes
  chat_template: builtin:chatml
  cache_image_embeds: true
  image_cache_dir: embeds
  image: {max_tiles: 1, thumbnail: false}
  config:
    text_config: {model_type: llama, vocab_size: 288, hidden_size: 576, intermediate_size: 1536, num_hidden_layers: 30,
                  num_attention_heads: 9, num_key_value_heads: 3, max_position_embeddings: 8192, eos_token_id: 258,
                  pad_token_id: 256}
    vision_config: {model_type: vlmforge_internvit, hidden_size: 1024, intermediate_size: 4096, num_hidden_layers: 24,
                    num_attention_heads: 16, image_size: 448, patch_size: 14}
    image_token_id: 264
    projector_type: llama3.1_8b
parallelism: {dp_shard: 1}
data:
  train: [{path: "builtin:image_messages", format: messages, rows: [0, NUM_ROWS]}]
stage:
  trainable: [projector]
  seq_len: 1024
  micro_batch_size: 4
  global_batch_size: 4
  max_epochs: 3
  schedule: {name: constant}
checkpointing: {export: never}
logging: {trackers: []}
"""


def main() -> None:
    """Train in a temporary folder and print what each epoch took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num-rows", type=int, default=16, help="rows of an epoch, a multiple of 4")
    num_rows = parser.parse_args().num_rows
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "cache.yaml").write_text(RECIPE.replace("NUM_ROWS", str(num_rows)))
        subprocess.run([sys.executable, "-m", "vlmforge", "train", "recipe=cache.yaml"], cwd=folder, check=True)
        lines = [json.loads(line) for line in (folder / "runs/cache/metrics.jsonl").read_text().splitlines()]
        kept = list((folder / "embeds").rglob("*.safetensors"))
        num_bytes = sum(path.stat().st_size for path in kept)
    seconds = [line["step_time_seconds"] for line in lines]
    steps = num_rows // 4
    epochs = [sum(seconds[first : first + steps]) for first in range(0, 3 * steps, steps)]
    print(f"\n{len(kept)} tiles kept, {num_bytes / 2**20 / len(kept):.1f} MiB each")
    for number, (epoch, took) in enumerate(zip(("computed", "read", "read"), epochs, strict=True), 1):
        print(f"epoch {number}, {epoch}: {took:.1f} s, {epochs[0] / took:.2f} times as fast")


if __name__ == "__main__":
    main()

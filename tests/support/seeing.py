"""The `model` section of short runs over pictures."""

SEEING_MODEL = """\
model:
  family: qwen3_vl
  init: random
  tokenizer: builtin:bytes
  chat_template: builtin:chatml
  image: {min_pixels: 256, max_pixels: 2048}
  config:
    text_config: {vocab_size: 264, hidden_size: 64, intermediate_size: 128, num_hidden_layers: 2,
                  num_attention_heads: 4, num_key_value_heads: 2, head_dim: 32, eos_token_id: 258, pad_token_id: 256,
                  rope_scaling: {rope_type: default, mrope_interleaved: true, mrope_section: [6, 5, 5]}}
    vision_config: {depth: 2, hidden_size: 32, intermediate_size: 64, num_heads: 2, patch_size: 8,
                    out_hidden_size: 64, num_position_embeddings: 64, deepstack_visual_indexes: [0]}
    image_token_id: 262
    video_token_id: 263
    vision_start_token_id: 260
    vision_end_token_id: 261
"""

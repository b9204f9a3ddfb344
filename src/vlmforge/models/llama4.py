"""Llama 4, text only (transformers `Llama4ForCausalLM`): experts, and two kinds of layers.

Three of four layers have rotary positions and see their own chunk of `attention_chunk_size` tokens only; every fourth
has none (`no_rope_layers` holds a 0 there), sees all, and scales its queries with the position in the sample. The
published folders are of the model with images; its language model is read alone. Adapters leave the router and the
experts as they are, and the loss is the tokens' alone, without the router's auxiliary loss.
"""

from vlmforge.models.family import NONE, SHARDED_ATTENTION, TEXT_FIELDS, TEXT_REQUIRED, TINY_TEXT, Family, Wrapper

LLAMA4 = Family(
    name="llama4",
    model_type="llama4_text",
    architecture="Llama4ForCausalLM",
    fields={
        **TEXT_FIELDS,
        "head_dim": (int,),
        "attention_bias": (bool,),
        "intermediate_size_mlp": (int,),
        "num_local_experts": (int,),
        "num_experts_per_tok": (int,),
        "moe_layers": (list, NONE),
        "interleave_moe_layer_step": (int,),
        "use_qk_norm": (bool,),
        "no_rope_layers": (list, NONE),
        "no_rope_layer_interval": (int,),
        "attention_chunk_size": (int, NONE),
        "layer_types": (list, NONE),
        "attn_temperature_tuning": (bool,),
        "floor_scale": (int,),
        "attn_scale": (float, int),
        "output_router_logits": (bool,),
    },
    required=(*TEXT_REQUIRED, "num_local_experts", "num_experts_per_tok"),
    tiny={
        **TINY_TEXT,
        "head_dim": 32,
        "intermediate_size": 48,
        "intermediate_size_mlp": 128,
        "num_local_experts": 4,
        "num_experts_per_tok": 1,
        "no_rope_layers": [1, 0],
    },
    tiny_drops=("layer_types", "moe_layers"),
    not_adapted=("router",),
    sharding={
        **SHARDED_ATTENTION,
        "model.layers.*.feed_forward.router": "replicated",
        "model.layers.*.feed_forward.experts": "experts",
        "model.layers.*.feed_forward.shared_expert.gate_proj": "colwise",
        "model.layers.*.feed_forward.shared_expert.up_proj": "colwise",
        "model.layers.*.feed_forward.shared_expert.down_proj": "rowwise",
        # Of layers without experts.
        "model.layers.*.feed_forward.gate_proj?": "colwise",
        "model.layers.*.feed_forward.up_proj?": "colwise",
        "model.layers.*.feed_forward.down_proj?": "rowwise",
    },
    wrapper=Wrapper("llama4", "text_config", "language_model."),
)

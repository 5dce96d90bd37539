# malformed.tcl: models made by hand, byte for byte, so that each file can lie about one thing. malformed.test tells the
# lies; fuzz/seeds.tcl begins with the truth. A model is a dict; what is to be other than in a good one is put over it:
#     [gguf [over $llama meta llama.block_count {u32 0}]]        with "-" in the place of a value it is left out

set codes {u8 0 i8 1 u16 2 i16 3 u32 4 i32 5 f32 6 bool 7 text 8 array 9 u64 10 i64 11 f64 12}
set scans {u8 c i8 c u16 s i16 s u32 i i32 i f32 r bool c u64 w i64 w f64 q}
set formats {f32 {0 1 4} f16 {1 1 2} q4_0 {2 32 18} q4_1 {3 32 20} q5_0 {6 32 22} q8_0 {8 32 34} q4_k {12 256 144} q6_k {14 256 210} bf16 {30 1 2}}

proc u32 {x} { binary format i $x }
proc u64 {x} { binary format w $x }
proc str {bytes} { return [u64 [string length $bytes]]$bytes }      ;# a length and that many bytes
proc utf8 {text} { encoding convertto utf-8 $text }

proc encode {type x} {
    switch $type {
        text { return [str [utf8 $x]] }
        array {
            lassign $x elem items
            set out [u32 [dict get $::codes $elem]][u64 [llength $items]]
            foreach item $items { append out [encode $elem $item] }
            return $out
        }
        default { return [binary format [dict get $::scans $type] $x] }
    }
}

# An entry of the metadata. A value of type raw is bytes, its type's code among them.
proc entry {key value} {
    lassign $value type x
    if {$type eq "raw"} { return [str [utf8 $key]]$x }
    return [str [utf8 $key]][u32 [dict get $::codes $type]][encode $type $x]
}

# The bytes of a tensor: small numbers, each its own; or ones, for a norm.
proc weights {name format n_bytes} {
    if {$format ne "f32"} { return [string repeat \x11 $n_bytes] }
    set n [expr {$n_bytes / 4}]
    if {[string match *norm.weight $name]} { return [binary format r$n [lrepeat $n 1.0]] }
    set seed [string length $name]
    for {set i 0} {$i < $n} {incr i} {
        set seed [expr {($seed * 1103515245 + 12345) & 0x7FFFFFFF}]
        lappend out [expr {($seed % 2001 - 1000) / 1000.0}]
    }
    return [binary format r$n $out]
}

proc over {model args} {
    foreach {part key value} $args {
        if {$value eq "-"} { dict unset model $part $key } else { dict set model $part $key $value }
    }
    return $model
}

# A model: head (magic version n_tensors n_kv), meta (key {type value}), tensors (name {format dims ?offset? ?name? ?bytes?}). Of a
# tensor a format may be a code, an offset said that is not the true one, and the bytes be others.
proc gguf {model} {
    set meta {}
    set list {}
    set data {}
    dict for {key value} [dict get $model meta] { append meta [entry $key $value] }
    dict for {name t} [dict get $model tensors] {
        lassign $t format dims offset said bytes
        lassign [expr {[dict exists $::formats $format] ? [dict get $::formats $format] : [list $format 1 4]}] code block size
        while {[string length $data] % 32} { append data \0 }
        append list [str [expr {$said ne "" ? $said : [utf8 $name]}]] [u32 [llength $dims]] [binary format w* $dims] [u32 $code]
        append list [u64 [expr {$offset ne "" ? $offset : [string length $data]}]]
        set n 1
        foreach d $dims { set n [expr {$n * $d}] }
        if {$bytes eq "" && $n > 0 && $n < 1000000} { set bytes [weights $name $format [expr {$n / $block * $size}]] }
        append data $bytes
    }
    lassign [dict get $model head] magic version n_tensors n_kv
    if {$n_tensors eq ""} { set n_tensors [dict size [dict get $model tensors]] }
    if {$n_kv eq ""} { set n_kv [dict size [dict get $model meta]] }
    set out $magic[u32 $version][u64 $n_tensors][u64 $n_kv]$meta$list
    while {[string length $out] % 32} { append out \0 }
    return $out$data
}

#-------------------------------------------------------------------------
# Good models, as small as they can be: 8 wide, one layer, 12 tokens.

# General keys of an architecture, then its tensors: those of a layer are given after the width of queries and keys.
proc decoder {arch n_kv extra_meta tokenizer extra_tensors} {
    set meta [dict create general.architecture [list text $arch]]
    foreach {key type value} [list context_length u32 64 embedding_length u32 8 block_count u32 1 feed_forward_length u32 8 \
        attention.head_count u32 2 attention.head_count_kv u32 $n_kv attention.layer_norm_rms_epsilon f32 1e-5 {*}$extra_meta] {
        dict set meta $arch.$key [list $type $value]
    }
    set kv [expr {4 * $n_kv}]
    set tensors {token_embd.weight {f32 {8 12}} output_norm.weight {f32 8} blk.0.attn_norm.weight {f32 8} blk.0.attn_q.weight {f32 {8 8}}}
    dict set tensors blk.0.attn_k.weight [list f32 [list 8 $kv]]
    dict set tensors blk.0.attn_v.weight [list f32 [list 8 $kv]]
    foreach {name shape} {attn_output {8 8} ffn_norm 8 ffn_gate {8 8} ffn_up {8 8} ffn_down {8 8}} {
        dict set tensors blk.0.$name.weight [list f32 $shape]
    }
    return [dict create head {GGUF 3} meta [dict merge $meta $tokenizer] tensors [dict merge $tensors $extra_tensors]]
}

set spm {
    tokenizer.ggml.model {text llama}
    tokenizer.ggml.tokens {array {text {<unk> <s> </s> <0x41> <0xC3> ▁ a b ▁a ab ▁ab c}}}
    tokenizer.ggml.scores {array {f32 {0 0 0 0 0 -1 -2 -3 -4 -5 -6 -7}}}
    tokenizer.ggml.token_type {array {i32 {2 3 3 6 6 1 1 1 1 1 1 1}}}
    tokenizer.ggml.bos_token_id {u32 1}
    tokenizer.ggml.eos_token_id {u32 2}
    tokenizer.ggml.unknown_token_id {u32 0}
}
set bpe {
    tokenizer.ggml.model {text gpt2}
    tokenizer.ggml.pre {text smollm}
    tokenizer.ggml.tokens {array {text {<|endoftext|> <|im_start|> <|im_end|> a b c Ġ ab Ġa abc d e}}}
    tokenizer.ggml.token_type {array {i32 {3 3 3 1 1 1 1 1 1 1 1 1}}}
    tokenizer.ggml.merges {array {text {{a b} {Ġ a} {ab c}}}}
    tokenizer.ggml.bos_token_id {u32 0}
    tokenizer.ggml.eos_token_id {u32 2}
}
set wordpiece {
    tokenizer.ggml.model {text bert}
    tokenizer.ggml.tokens {array {text {[PAD] [UNK] [CLS] [SEP] ▁a ▁b ▁once a b ▁c c ▁,}}}
    tokenizer.ggml.token_type {array {i32 {3 2 3 3 1 1 1 1 1 1 1 1}}}
    tokenizer.ggml.unknown_token_id {u32 1}
    tokenizer.ggml.cls_token_id {u32 2}
    tokenizer.ggml.seperator_token_id {u32 3}
}
set experts {blk.0.ffn_gate_inp.weight {f32 {8 2}} blk.0.ffn_gate_exps.weight {f32 {8 8 2}} blk.0.ffn_up_exps.weight {f32 {8 8 2}}
    blk.0.ffn_down_exps.weight {f32 {8 8 2}}}

set llama [decoder llama 1 {rope.dimension_count u32 4} $spm {}]
set qwen3 [decoder qwen3 2 {attention.key_length u32 4} $bpe {blk.0.attn_q_norm.weight {f32 4} blk.0.attn_k_norm.weight {f32 4}}]
set gemma3 [decoder gemma3 1 {attention.sliding_window u32 4 attention.sliding_window_pattern u32 2} $spm \
    {blk.0.attn_q_norm.weight {f32 4} blk.0.attn_k_norm.weight {f32 4} blk.0.post_attention_norm.weight {f32 8} blk.0.post_ffw_norm.weight {f32 8}}]
set moe [over [decoder llama 1 {expert_count u32 2 expert_used_count u32 1} $bpe $experts] \
    tensors blk.0.ffn_gate.weight - tensors blk.0.ffn_up.weight - tensors blk.0.ffn_down.weight -]
set gpt2 [over [decoder gpt2 2 {} $bpe {position_embd.weight {f32 {8 64}} output_norm.bias {f32 8} blk.0.attn_norm.bias {f32 8}
    blk.0.attn_qkv.weight {f32 {8 24}} blk.0.attn_qkv.bias {f32 24} blk.0.attn_output.bias {f32 8} blk.0.ffn_norm.bias {f32 8}
    blk.0.ffn_up.bias {f32 8} blk.0.ffn_down.bias {f32 8}}] tensors blk.0.attn_q.weight - tensors blk.0.attn_k.weight - \
    tensors blk.0.attn_v.weight - tensors blk.0.ffn_gate.weight -]
set bert [over [decoder bert 2 {} $wordpiece {position_embd.weight {f32 {8 64}} token_types.weight {f32 {8 2}} token_embd_norm.weight {f32 8}
    token_embd_norm.bias {f32 8} blk.0.attn_q.bias {f32 8} blk.0.attn_k.bias {f32 8} blk.0.attn_v.bias {f32 8} blk.0.attn_output.bias {f32 8}
    blk.0.attn_output_norm.weight {f32 8} blk.0.attn_output_norm.bias {f32 8} blk.0.ffn_up.bias {f32 8} blk.0.ffn_down.bias {f32 8}
    blk.0.layer_output_norm.weight {f32 8} blk.0.layer_output_norm.bias {f32 8}}] tensors output_norm.weight - \
    tensors blk.0.attn_norm.weight - tensors blk.0.ffn_norm.weight - tensors blk.0.ffn_gate.weight -]

#-------------------------------------------------------------------------
# Folders of Hugging Face's form: config (JSON), tensors (name {dtype shape ?offsets? ?bytes?}); shape and offsets are JSON without
# their brackets. header is put in the place of what the tensors make, length in that of its own length.
proc safetensors {model} {
    set header {}
    set data {}
    dict for {name t} [dict get $model tensors] {
        lassign $t dtype shape offsets bytes
        set n [dict get {F32 4 F16 2 BF16 2 I64 8} $dtype]
        foreach d [split $shape ,] { set n [expr {$n * $d}] }
        if {$offsets eq ""} { set offsets "[string length $data],[expr {[string length $data] + $n}]" }
        append header [expr {$header eq "" ? "" : ","}] "\"$name\":{\"dtype\":\"$dtype\",\"shape\":\[$shape\],\"data_offsets\":\[$offsets\]}"
        append data [expr {$bytes ne "" ? $bytes : [weights $name [expr {$dtype eq "F32" ? "f32" : "f16"}] $n]}]
    }
    set header [expr {[dict exists $model header] ? [dict get $model header] : "{$header}"}]
    set length [expr {[dict exists $model length] ? [dict get $model length] : [string length $header]}]
    return [u64 $length]$header$data
}

# As safetensors.c of the fuzz targets has it: config.json in a line of its own, then model.safetensors.
proc folder {model} { return [dict get $model config]\n[safetensors $model] }

proc hf {config layer_names more} {
    set tensors {}
    foreach {name shape} [list {*}$more {*}$layer_names] { dict set tensors $name [list F32 $shape] }
    return [dict create config [string map {\n {} "  " {}} $config] tensors $tensors]
}

set decoder_layer {
    model.layers.0.input_layernorm.weight 8 model.layers.0.post_attention_layernorm.weight 8 model.layers.0.self_attn.q_proj.weight 8,8
    model.layers.0.self_attn.k_proj.weight 4,8 model.layers.0.self_attn.v_proj.weight 4,8 model.layers.0.self_attn.o_proj.weight 8,8
    model.layers.0.mlp.gate_proj.weight 8,8 model.layers.0.mlp.up_proj.weight 8,8 model.layers.0.mlp.down_proj.weight 8,8
}
set decoder_config {"hidden_size":8,"num_hidden_layers":1,"num_attention_heads":2,"num_key_value_heads":1,"intermediate_size":8,
    "max_position_embeddings":64,"rms_norm_eps":1e-5,"rope_theta":10000.0,"hidden_act":"silu","eos_token_id":[2,3],"bos_token_id":1}
set hf_llama [hf "{\"model_type\":\"llama\",\"rope_scaling\":{\"rope_type\":\"llama3\",\"factor\":8.0,\"low_freq_factor\":1.0,\"high_freq_factor\":4.0,\"original_max_position_embeddings\":32},$decoder_config}" \
    $decoder_layer {model.embed_tokens.weight 12,8 lm_head.weight 12,8 model.norm.weight 8}]
set hf_qwen3 [hf "{\"model_type\":\"qwen3\",\"head_dim\":4,\"tie_word_embeddings\":true,$decoder_config}" \
    [concat $decoder_layer {model.layers.0.self_attn.q_norm.weight 4 model.layers.0.self_attn.k_norm.weight 4}] \
    {model.embed_tokens.weight 12,8 model.norm.weight 8}]
set bert_layer {embeddings.LayerNorm.weight 8 embeddings.LayerNorm.bias 8}
foreach {name shape} {attention.self.query 8,8 attention.self.key 8,8 attention.self.value 8,8 attention.output.dense 8,8 intermediate.dense 8,8 output.dense 8,8} {
    lappend bert_layer encoder.layer.0.$name.weight $shape encoder.layer.0.$name.bias 8
}
foreach name {attention.output output} { foreach part {weight bias} { lappend bert_layer encoder.layer.0.$name.LayerNorm.$part 8 } }
set hf_bert [hf {{"model_type":"roberta","hidden_size":8,"num_hidden_layers":1,"num_attention_heads":2,"intermediate_size":8,
    "max_position_embeddings":34,"layer_norm_eps":1e-5,"hidden_act":"gelu","pad_token_id":1}} $bert_layer \
    {embeddings.word_embeddings.weight 12,8 embeddings.position_embeddings.weight 34,8 embeddings.token_type_embeddings.weight 1,8}]

# seeds.tcl: write the inputs that fuzzing begins with, besides those that the tree keeps: tclsh tests/fuzz/seeds.tcl FOLDER
source tests/malformed.tcl

proc seed {target name bytes} {
    file mkdir [file join $::folder $target]
    set f [open [file join $::folder $target $name] wb]
    puts -nonewline $f $bytes
    close $f
}

set folder [lindex $argv 0]
foreach name {llama qwen3 gemma3 moe gpt2 bert} { seed gguf $name [gguf [set $name]] }
foreach format {f16 bf16 q4_0 q4_1 q5_0 q8_0} {
    seed gguf llama_$format [gguf [over $llama meta llama.feed_forward_length {u32 32} tensors blk.0.ffn_down.weight [list $format {32 8}] \
        tensors blk.0.ffn_gate.weight {f32 {8 32}} tensors blk.0.ffn_up.weight {f32 {8 32}}]]
}
seed gguf template [gguf [over $qwen3 meta tokenizer.chat_template {text "{% for m in messages %}<|im_start|>{{ m.role }}{% endfor %}"}]]
foreach name {llama qwen3 bert} { seed safetensors $name [folder [set hf_$name]] }

# Texts for each tokenizer, with each way to encode; the number behind the last tokenizer is for chat templates.
set i 0
foreach text [list {} "Hello, world" "  two  spaces\t\ttabs\n\nlines \r\n" "it's 3.14 and 1,000,000 O'Neill" "<|im_start|>user<|im_end|><s></s>\[INST\]<bos>" \
        "caf\u00e9 \u00c5ngstr\u00f6m \u4e2d\u6587 \u0e20\u0e32\u0e29\u0e32" "\u0915\u094d\u0937 e\u0301 \ufb01 \u2460 \u200d \ufeff" [string repeat "ab " 60] [string repeat "!" 90]] {
    for {set which 0} {$which < 18} {incr which 3} { seed tokenizer_text text_${i}_$which [binary format cc $which [expr {37 * $i & 255}]][utf8 $text] }
    incr i
}
foreach bytes [list \xFF\xFE\x80abc \xF0\x9F\x99 a\0b\0 \xC0\xAF\xED\xA0\x80] { seed tokenizer_text bytes_[incr i] [binary format cc $i 5]$bytes }
foreach text [list {{% for m in messages %}<|im_start|>{{ m.role }}{% endfor %}} {{{ bos_token }}[INST] {{ messages[0]['content'] }} [/INST]} \
        "you are brief|what is it?|<|im_end|>|" {<|start_header_id|>x<|end_header_id|>} {{% if %}{{ x | y } %}}] {
    foreach chat {17 35 53} { seed tokenizer_text chat_[incr i] [binary format cc $chat [expr {91 * $i & 255}]]$text }
}

# Values as sql.h reads them.
proc value {type {x ""}} {
    switch $type {
        null { return \0 } int { return \1[binary format w $x] } small { return \2[binary format c $x] } real { return \3[binary format q $x] }
        text { return \4[binary format s [string length [utf8 $x]]][utf8 $x] } blob { return \5[binary format s [string length $x]]$x }
        zeros { return \6[binary format s $x] }
    }
}
# One edit of each place by each kind of value.
set i 0
foreach v [list [value null] [value int -1] [value small 3] [value real 1e300] [value text x] [value text {{"n":[1]}}] [value blob \0\1\2] [value zeros 9]] {
    for {set place 0} {$place < 48} {incr place 6} { seed database_rows set_$i \1[binary format ccc [expr {$place + $i % 6}] $i 0]$v; incr i }
}
foreach how {1 2 3 4 5} { foreach place {3 9 20 30} { seed database_rows edit_${how}_$place \1[binary format cccs $place 0 $how 7][value small 9] } }

set i 0
foreach {how args} {
    0x10 {{text {Hello there}}}  0x20 {{text a} {text {{"max_tokens":2,"temperature":0.5,"seed":1,"top_k":3,"top_p":0.9,"min_p":0.1}}}}
    0x20 {{text a} {text {{"template":"chatml","system":"s","stop":["x","y"],"repeat_penalty":1.1,"on_error":"null","parse_special":true}}}}
    0x20 {{text {[{"role":"user","content":"hi"}]}} {text {{"render":true,"template":"llama3"}}}}
    0x20 {{text [64,257]} {null}}  0x20 {{text a} {text {{"model":"m","pooling":"cls","normalize":false,"dimensions":3,"prefix":"p","on_long":"mean"}}}}
    0x20 {{text w} {text {{"arch":"qwen3","n_layers":1,"n_embd":4,"n_heads":1,"vocab":{"query":"SELECT body FROM note","size":260}}}}}
    0x20 {{blob abcdabcd} {blob dcbadcba}}  0x20 {{text memory_limit} {small 9}}  0x20 {{text generate_model} {text m}}  0x10 {{null}}  0x00 {}
    0x20 {{text m} {text out.gguf}}  0x30 {{text m} {text out.gguf} {text {{"overwrite":true}}}}
} {
    set bytes {}
    foreach v $args { append bytes [value {*}$v] }
    foreach which {0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15} {
        if {($which + $i) % 5} continue
        seed sql_arguments call_${i}_$which [binary format cc $how $which]$bytes
        seed sql_arguments table_${i}_$which [binary format cc [expr {$how | 3}] $which]$bytes
    }
    seed sql_arguments window_$i [binary format cc 0x22 $i]$bytes
    incr i
}
foreach text {"content='note', column='body'" "content = \"note\", column = body, model='m', dimensions=4, on_long=mean, prefix='p', query_prefix='q', pooling=cls"} {
    seed sql_arguments index_[string length $text] \xFF\0[binary format s [string length $text]]$text
}

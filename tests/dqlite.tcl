# dqlite.tcl: three dqlite nodes (tests/dqlite_node.c) on this machine, each with kernels and threads of its own, hold the same
# bytes and give the same answers, also after their leader was killed. Run by make dqlite.
#
# Only a leader answers SQL, so each node is asked as the leader, in turn. The protocol: messages of a header (words of the
# body, type, version) and a body of 8-byte words; texts end with NUL and are padded.
source tests/tester.tcl
set file tests/dqlite.tcl
set folder build/tmp/dqlite
set patience 60000

#-------------------------------------------------------------------------
# The wire
proc pad {bytes} { append bytes [string repeat \0 [expr {-[string length $bytes] & 7}]] }
proc word {n} { binary format w $n }
proc text {s} { pad [encoding convertto utf-8 $s]\0 }

proc read_text {body at_name} {
    upvar 1 $at_name at
    set end [string first \0 $body $at]
    set s [encoding convertfrom utf-8 [string range $body $at $end-1]]
    set at [expr {($end + 8) & ~7}]
    return $s
}

# The next answer's body. In a failure's, a code and its message come last: dqlite 1.11 leaves in front of a failed query's
# the names of its columns.
proc answer {} {
    if {[binary scan [read $::socket 8] iucu words type] < 2} { error "the node closed the connection" }
    set body [read $::socket [expr {$words * 8}]]
    if {$type == 0} { error [encoding convertfrom utf-8 [lindex [split [string trimright $body \0] \0] end]] }
    return $body
}

proc ask {type args} {
    set body [join $args ""]
    puts -nonewline $::socket [binary format iucucsu [expr {[string length $body] / 8}] $type 0 0]$body
    flush $::socket
    answer
}

proc connect {node} {
    catch { close $::socket }
    set ::socket [socket 127.0.0.1 [port $node]]
    fconfigure $::socket -translation binary
    puts -nonewline $::socket [word 1]
}

proc run_sql {sql} { ask 8 [word $::db] [text $sql]; return }

# The values of a query's rows, numbers as numbers and BLOBs as bytes.
proc query {sql} {
    set values {}
    set body [ask 9 [word $::db] [text $sql]]
    while 1 {
        binary scan $body w n
        set at 8
        for {set i 0} {$i < $n} {incr i} { read_text $body at }
        while 1 {
            binary scan $body @${at}wu mark
            if {$mark == 0xffffffffffffffff} { return $values }
            if {$mark == 0xeeeeeeeeeeeeeeee} break
            binary scan $body @${at}cu[expr {($n + 1) / 2}] types
            incr at [expr {($n + 15) / 16 * 8}]
            for {set i 0} {$i < $n} {incr i} {
                set v {}
                switch [expr {[lindex $types [expr {$i / 2}]] >> $i % 2 * 4 & 15}] {
                    1 { binary scan $body @${at}w v; incr at 8 }
                    2 { binary scan $body @${at}q v; incr at 8 }
                    3 { set v [read_text $body at] }
                    4 { binary scan $body @${at}wX8x8a* bytes rest; set v [string range $rest 0 $bytes-1]; incr at [expr {8 + ($bytes + 7 & ~7)}] }
                    5 { incr at 8 }
                    default { error "a value of unknown type" }
                }
                lappend values $v
            }
        }
        set body [answer]
    }
}

#-------------------------------------------------------------------------
# The cluster
proc port {node} { expr {19100 + $node} }

proc start {node} {
    set extra [expr {[file exists models/vec0.so] ? "models/vec0.so sqlite3_vec_init" : ""}]
    set cpu [lindex {- scalar avx2 vnni} $node]
    file mkdir $::folder/$node
    set ::nodes($node) [open "|env LM_CPU=$cpu build/dqlite_node $node 127.0.0.1:[port $node] $::folder/$node $extra 2>@stderr" r+]
    if {[gets $::nodes($node)] ne "node $node is up"} { error "node $node did not start" }
}

proc stop {node} {
    catch { close $::nodes($node) }
    unset ::nodes($node)
}

# The number of the node that the connected one takes for the leader, 0: it knows none.
proc leader {} {
    binary scan [ask 0 [word 0]] w id
    return $id
}

proc wait_for {what script} {
    for {set t 0} {$t < $::patience} {incr t 100} {
        if {![catch { uplevel 1 $script } ok] && $ok} return
        after 100
    }
    error "waited in vain for $what"
}

# Make a node the leader and open the database there.
proc lead {node} {
    wait_for "node $node to lead" {
        connect $node
        set now [leader]
        if {$now && $now != $node} {
            connect $now
            ask 17 [word $node]
        }
        expr {$now == $node}
    }
    open_db
}

proc open_db {} {
    ask 1 [word 7]
    binary scan [ask 3 [text lm.db] [word 0] [text ""]] iu ::db
    query "SELECT lm_config('threads', [lindex {- 1 2 4} [leader]])"
}

# Every row of every table, as SQL's own literals.
proc contents {} {
    set all {}
    foreach table [query { SELECT name FROM sqlite_master WHERE type = 'table' AND sql NOT LIKE 'CREATE VIRTUAL%' ORDER BY name }] {
        set columns {}
        foreach column [query "SELECT name FROM pragma_table_info('$table')"] { lappend columns "quote(\"$column\")" }
        lappend all $table [query "SELECT [join $columns ,] FROM \"$table\""]
    }
    return $all
}

# What can be asked of the models, without writing.
proc answers {} {
    set all [query {
        SELECT generate('Once upon a time', '{"model":"tiny","template":"none","max_tokens":40}'),
            generate('Once', '{"model":"tiny","temperature":1,"seed":3,"max_tokens":40}'),
            generate('Once', '{"model":"made","max_tokens":40}'), embed('Once', '{"model":"tiny"}'), lm_check()
    }]
    lappend all {*}[query { SELECT token, logprob FROM generate_stream('one', '{"model":"tiny","max_tokens":8}') }]
    lappend all {*}[query { SELECT id, embed_batch(body, '{"model":"made"}') OVER (ROWS BETWEEN CURRENT ROW AND 3 FOLLOWING) FROM note }]
    if {[file exists models/vec0.so]} { lappend all {*}[query { SELECT rowid, distance FROM note_idx WHERE body MATCH 'one' AND k = 3 }] }
    return $all
}

# Have every node that runs be the leader once and compare.
proc compare {number} {
    foreach node [lsort [array names ::nodes]] {
        lead $node
        set got [list [contents] [answers]]
        if {![info exists first]} { lassign [list $node $got] one first }
        report $number.$node same [expr {$got eq $first ? "same" : "other rows or answers than node $one"}]
    }
}

proc fails {number sql part} {
    set bad [catch { query $sql } message]
    report $number 1 [expr {$bad && [string first $part $message] >= 0 ? 1 : "no error with «$part»: $message"}]
}

file delete -force $folder
try {
    foreach node {1 2 3} { start $node }
    lead 1
    foreach node {2 3} {
        ask 12 [word $node] [text 127.0.0.1:[port $node]]
        ask 13 [word $node] [word 0]
    }

    #-------------------------------------------------------------------------
    # "On dqlite a SELECT can write only between BEGIN and COMMIT": elsewhere it would end the node.
    run_sql { CREATE TABLE note(id INTEGER PRIMARY KEY, body, vec, answer) }
    run_sql { INSERT INTO note(body) VALUES ('one'), ('two words'), (NULL), ('four'), ('and a fifth') }
    fails 1.0 { SELECT lm_import('tests/golden/tiny.gguf') } {lm_import: on dqlite a SELECT can write only between BEGIN and COMMIT}
    fails 1.1 { SELECT lm_create('made', '{"n_layers":1}') } {lm_create: on dqlite a SELECT can write only between BEGIN and COMMIT}
    report 1.2 {{}} [query { SELECT lm_config('generate_model', NULL) }]     ;# where nothing is, nothing is written
    run_sql { INSERT INTO note(body) VALUES ('and the node lives') }
    report 1.3 6 [query { SELECT count(*) FROM note }]

    #-------------------------------------------------------------------------
    # Models, answers, vectors, dials and an index, written through the cluster: the same on every node.
    run_sql { BEGIN }
    query { SELECT lm_import('tests/golden/tiny.gguf') }
    query { SELECT lm_create('made', '{"n_layers":2,"n_embd":32,"n_heads":2,"vocab":{"query":"SELECT body FROM note"}}') }
    query { SELECT lm_config('generate_model', 'tiny'), lm_config('embed_model', 'tiny') }
    query { SELECT step FROM lm_train('{"model":"made","query":"SELECT body FROM note","max_steps":3,"checkpoint_every":1}') }
    run_sql { COMMIT }
    fails 1.4 { SELECT lm_config('generate_model', NULL) } {lm_config: on dqlite a SELECT can write only between BEGIN and COMMIT}
    fails 1.5 { SELECT step FROM lm_train('{"model":"made","query":"SELECT body FROM note","max_steps":1}') } {on dqlite a SELECT can write only between BEGIN and COMMIT}
    run_sql { UPDATE note SET vec = embed(body), answer = generate(body, '{"max_tokens":12}') }
    run_sql { UPDATE lm_weights SET value = value * -2 WHERE model = 'tiny' AND tensor = 'blk.0.ffn_up.weight' AND row < 4 }
    if {[file exists models/vec0.so]} {
        run_sql { CREATE VIRTUAL TABLE note_idx USING lm_index(content='note', column='body', model='made') }
    } else {
        puts "skipped: lm_index on dqlite: models/vec0.so is not there (make fetch)"
    }
    report 2.0 {6 5 5} [query { SELECT count(*), count(vec), count(answer) FROM note }]
    report 2.1 {ok 1} [query { SELECT lm_check(), sum(digest IS NULL) FROM lm_model }]
    compare 2.2

    #-------------------------------------------------------------------------
    # A transaction that is taken back leaves nothing, on disk or in memory.
    lead 2
    set before [list [contents] [answers]]
    run_sql { BEGIN }
    query { SELECT lm_import('tests/golden/tiny.gguf', '{"name":"second"}') }
    run_sql { UPDATE lm_weights SET value = 0 WHERE model = 'tiny' AND tensor = 'blk.0.ffn_up.weight' }
    run_sql { DELETE FROM lm_model WHERE name = 'made' }
    report 3.0 {tiny second} [query { SELECT name FROM lm_model ORDER BY id }]
    run_sql { ROLLBACK }
    do_true 3.1 { expr {[list [contents] [answers]] eq $before} }

    #-------------------------------------------------------------------------
    # A model of more pages than the cache holds: "PRAGMA cache_spill = 0 first".
    run_sql { PRAGMA cache_spill = 0 }
    run_sql { BEGIN }
    query { SELECT lm_create('large', '{"n_layers":4,"n_embd":192,"n_heads":4}') }
    run_sql { ROLLBACK }
    run_sql { BEGIN }
    query { SELECT lm_create('large', '{"n_layers":4,"n_embd":192,"n_heads":4}') }
    run_sql { COMMIT }
    set large [query { SELECT digest FROM lm_model WHERE name = 'large' }]
    lead 1
    report 3.2 [list ok $large] [query { SELECT lm_check('large'), digest FROM lm_model WHERE name = 'large' }]
    run_sql { DELETE FROM lm_model WHERE name = 'large' }
    do_true 3.3 { expr {[list [contents] [answers]] eq $before} }

    #-------------------------------------------------------------------------
    # The leader is killed: the others go on, and it has all of it when it is back.
    lead 3
    exec kill -9 [pid $nodes(3)]
    stop 3
    wait_for "a new leader" {
        connect 1
        expr {[set now [leader]] in {1 2}}
    }
    lead $now
    do_true 4.0 { expr {[list [contents] [answers]] eq $before} }
    run_sql { INSERT INTO note(body, answer) SELECT 'while it was down', generate('down', '{"max_tokens":12}') }
    run_sql { UPDATE lm_weights SET value = value * 3 WHERE model = 'tiny' AND tensor = 'blk.1.ffn_down.weight' AND row = 1 }
    compare 4.1
    start 3
    compare 4.2
    report 4.3 {ok ok 7} [query { SELECT (SELECT * FROM pragma_integrity_check), lm_check(), count(*) FROM note }]
    if {[file exists models/vec0.so]} {
        run_sql { INSERT INTO note_idx(note_idx) VALUES ('sync') }
        run_sql { INSERT INTO note_idx(note_idx) VALUES ('integrity-check') }
        report 4.4 {0 6} [query { SELECT (SELECT count(*) FROM note_idx_outbox), (SELECT count(*) FROM note_idx) }]
        compare 4.5
    }
} on error message {
    incr failed
    puts "$file: stopped: $message\n$::errorInfo"
} finally {
    foreach node [array names nodes] { stop $node }
}
puts "$passed passed, $failed failed"
exit [expr {$failed > 0}]

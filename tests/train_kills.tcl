# train_kills.tcl: a training run killed with -9 at random moments and resumed each time ends with an unbroken run's digest.
# By hand, with how many runs and a seed:  tclsh tests/train_kills.tcl 100 7
if {![info exists tries]} {
    source tests/tester.tcl
    file mkdir build/tmp
    lassign [concat $argv 20 1] tries seed
    set file train_kills
} else {
    set seed 1
}
expr {srand($seed)}

set killed_path build/tmp/train_kills.db
set killed_options {{"model":"mood","query":"SELECT text FROM review","epochs":12,"lr":0.01,"batch_tokens":600,"val_fraction":0.2,"checkpoint_every":2}}

# The child: begin, or go on where something is to be resumed.
set child [open build/tmp/train_kills_child.tcl w]
puts $child [list set options $killed_options]
puts $child {
    package require sqlite3
    sqlite3 db build/tmp/train_kills.db
    db enable_load_extension 1
    db eval { SELECT load_extension('build/lm', 'sqlite3_lm_init') }
    if {[db exists { SELECT 1 FROM lm_run WHERE status = 'running' }]} { set options {{"model":"mood","resume":true}} }
    if {![db exists { SELECT 1 FROM lm_run WHERE status = 'done' }]} { db eval { SELECT step FROM lm_train($options) } row {} }
    puts [db onecolumn { SELECT digest FROM lm_model }]
}
close $child

proc killed_fresh {} {
    file delete {*}[glob -nocomplain $::killed_path*]
    file copy build/tmp/train_kills_start.db $::killed_path
}
file delete {*}[glob -nocomplain build/tmp/train_kills*.db*]
sqlite3 start build/tmp/train_kills_start.db
start enable_load_extension 1
start eval {
    SELECT load_extension('build/lm', 'sqlite3_lm_init');
    SELECT lm_create('mood', '{"n_layers":2,"n_embd":32,"n_heads":2,"n_ctx":64}');
    CREATE TABLE review(text);
    WITH RECURSIVE c(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM c WHERE i < 120) INSERT INTO review SELECT 'This is sentence ' || i * i || ' of many.' FROM c;
}
start close
killed_fresh
set begun [clock milliseconds]
set unbroken [exec tclsh build/tmp/train_kills_child.tcl]
set length [expr {[clock milliseconds] - $begun}]

set n_kills 0
for {set i 0} {$i < $tries} {incr i} {
    killed_fresh
    # A run may be killed several times, each time somewhere in what would be its whole length.
    for {set k 0} {$k < 4} {incr k} {
        set job [open "|tclsh build/tmp/train_kills_child.tcl 2>@1"]
        after [expr {int(rand() * $length) + 1}]
        catch { exec kill -9 [pid $job] }
        set left [string trim [read $job]]
        if {![catch { close $job }]} break
        incr n_kills
    }
    if {$k == 4} { catch { exec tclsh build/tmp/train_kills_child.tcl } left }
    report kill.$i $unbroken $left
    sqlite3 killed $killed_path
    killed enable_load_extension 1
    killed eval { SELECT load_extension('build/lm', 'sqlite3_lm_init') }
    report kill.$i.1 {ok ok} [killed eval { PRAGMA integrity_check; SELECT lm_check() }]
    killed close
}
report kill.struck 1 [expr {$n_kills > 0}]
if {[info exists argv0] && [file tail $argv0] eq "train_kills.tcl"} {
    puts "$n_kills kills"
    puts "$passed passed, $failed failed"
}

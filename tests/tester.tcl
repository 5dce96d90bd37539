# tester.tcl: what the .test files share. Each is sourced by run.tcl with the current directory at the top of
# the tree; numbers are unique in a file.
package require sqlite3

set passed 0
set failed 0
set complaints {}

# Count a failure and say what it is, now and at the end of the run.
proc complain {what} {
    incr ::failed
    lappend ::complaints $what
    puts $what
}

# A fresh database in memory with the extension and the built-in model in it.
proc reset_db {} {
    catch { db close }
    sqlite3 db :memory:
    db enable_load_extension 1
    db eval { SELECT load_extension('build/lm', 'sqlite3_lm_init') }
    db eval { SELECT lm_import('tests/golden/tiny.gguf', '{"name":"tiny"}') }
    if {[info exists ::env(THREADS)]} { db eval { SELECT lm_config('threads', CAST($::env(THREADS) AS INTEGER)) } }
}

# The sqlite3 shell, which works with its own SQLite alone.
set shell {env -u LD_LIBRARY_PATH sqlite3}

proc report {number want got} {
    if {$want eq $got} {
        incr ::passed
    } else {
        complain "$::file $number: wanted {$want}, got {$got}"
    }
}

proc do_sql {number sql want} {
    if {[catch { uplevel #0 [list db eval $sql] } got]} { set got "error: $got" }
    report $number [list {*}$want] $got
}

proc do_sql_error {number sql want} {
    report $number "error: $want" [expr {[catch { uplevel #0 [list db eval $sql] } got] ? "error: $got" : $got}]
}

# The error must contain a text.
proc do_sql_error_like {number sql part} {
    set bad [catch { uplevel #0 [list db eval $sql] } got]
    report $number 1 [expr {$bad && [string first $part $got] >= 0 ? 1 : "no error with «$part»: $got"}]
}

# Milliseconds that this process has computed for: unlike the clock, they do not pass while others have the machine.
proc cpu_ms {} {
    set f [open /proc/self/stat]
    set fields [lrange [regsub {^.*\) } [read $f] {}] 11 12]
    close $f
    return [expr {10 * ([lindex $fields 0] + [lindex $fields 1])}]
}

proc do_true {number script} { report $number 1 [expr {[uplevel #0 $script] ? 1 : 0}] }

# Run an example statement by statement. A line "--= ..." after one is what it must give.
proc run_example {path} {
    set f [open $path]
    set statement ""
    set got ""
    set number 0
    foreach line [split [read $f] \n] {
        if {[regexp {^--= (.*)} $line -> want]} {
            incr number
            report "$path: $statement" $want $got
            continue
        }
        if {[regexp {^--} $line] || [string trim $line] eq ""} continue
        if {$statement ne "" && [db complete $statement]} { set statement "" }
        append statement $line \n
        if {[db complete $statement] && [catch { db eval $statement } got]} {
            report "$path: $statement" "no error" $got
        }
    }
    close $f
    report "$path: expectations" 1 [expr {$number >= 5}]
}

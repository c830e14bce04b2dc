# For gdb at an orrery machine:  gdb -x gdb/orrery.gdb target/kernel/orrery-kernel -ex 'target remote :PORT'
# (cargo orrery gdb SCENARIO prints the line with the port filled in.)

set architecture i386:x86-64
set disassembly-flavor intel
set pagination off
set confirm off
set print pretty on
# The machine answers every packet exactly; a slow host is no reason to give up.
set remotetimeout 60
# One instruction at a time costs the machine nothing: no need for gdb to guess.
set step-mode off

# Stepping, also backwards, is of the thread that is shown. (gdb allows the setting only while it is connected.)
define target hookpost-remote
  set scheduler-locking step
end

define kernel-log
  echo what the machine knows:\n
  monitor help
end
document kernel-log
The machine's own commands (monitor ...).
end

define frames
  # Frame pointers are kept everywhere in the kernel: a walk that needs no debug information.
  set $frame = $rbp
  set $count = 0
  printf "  %#lx  ", $rip
  info symbol $rip
  while $count < 32 && $frame > 0xffff800000000000
    set $return = *(unsigned long *)($frame + 8)
    if $return < 0xffff800000000000
      loop_break
    end
    printf "  %#lx  ", $return
    info symbol $return
    set $frame = *(unsigned long *)$frame
    set $count = $count + 1
  end
end
document frames
Walks the kernel stack by its frame pointers.
end

# After a jump in time what gdb remembers of registers and stacks is of another time.
define goto
  monitor goto $arg0
  maintenance flush register-cache
  frame
end
document goto
goto TICK|+N|-N|TIME: goes to a point in time (a tick, or 350ms), or N ticks on or back (monitor ticks says where this is).
end

define goto-write
  if $argc > 1
    monitor goto-write $arg0 $arg1
  else
    monitor goto-write $arg0
  end
  maintenance flush register-cache
  frame
end
document goto-write
goto-write NUMBER [DISK]: goes back to a write of a disk (monitor writes lists them).
end

define last-write
  if $argc > 1
    eval "monitor last-write %#lx %ld", (unsigned long)($arg0), (long)($arg1)
  else
    eval "monitor last-write %#lx", (unsigned long)($arg0)
  end
end
document last-write
last-write EXPRESSION [LENGTH]: who wrote there last: point in time, vCPU and stack. Example: last-write &zone::table::COUNT 4
end

define goto-call
  eval "monitor goto-last-write %#lx", (unsigned long)$rbp + 8
  maintenance flush register-cache
  frame
end
document goto-call
goto-call: goes back to the call of the function of the selected frame (its return address was written last by it), however long ago: one search,
where gdb's reverse-finish steps back through an inlined function instruction by instruction. Needs frame pointers, as our kernel has.
end

define translate
  monitor translate $arg0
end
document translate
translate ADDRESS: the physical address behind a linear one, by the page tables of this vCPU.
end

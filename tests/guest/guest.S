# The guest of the tests: one boot sector that does on command what a guest's kernel does when
# it ends, and otherwise sleeps. It boots under TCG in a tenth of a second and needs no disk
# but its own 512 bytes.
#
# It writes R to the serial line when it is ready, and then obeys single letters:
#
#   p  power off (ACPI S5)                r  reset (keyboard controller)
#   h  hibernate (ACPI S4)                t  triple fault
#   c  crash: tell pvpanic of a panic     x  leave through isa-debug-exit, code 7
#   k  crash with kdump: tell pvpanic     w  let the ib700 watchdog fire
#      that a crash kernel was loaded     d  be deaf to the power button from now on
#   s  suspend to RAM (ACPI S3)           ?  answer with !
#   n  count from now on
#
# To count is to write a sector of the second disk, which begins with its own number, and then to say the
# lowest byte of that, for 1 and all that follow. Nothing is flushed.
#
# When the power button is pressed it powers off, unless it has been made deaf. After c and k it
# still obeys: what a broken guest does next is up to the test. When it wakes from s it writes R
# again.
#
# The tests assemble it (tests/testbed/src/guest.rs). Ports: QEMU's PIIX4 power management (0x600), 16550
# UART (0x3f8), pvpanic-isa (0x505), ib700 (0x443), isa-debug-exit (0xf4), 8254 timer (0x40), 8259
# interrupt controller (0x21).

        .code16
        .globl  _start

        .set    UART, 0x3f8
        .set    UART_STATUS, 0x3fd
        .set    PM1_STATUS, 0x600
        .set    PM1_ENABLE, 0x602
        .set    PM1_CONTROL, 0x604
        .set    POWER_BUTTON, 0x100

_start:
        xorw    %ax, %ax
        movw    %ax, %ds
        movw    %ax, %ss
        movw    $0x7c00, %sp
        movb    $0, deaf
        movb    $0, counting

        # Only a guest that has asked for it is told of the power button.
        movw    $PM1_ENABLE, %dx
        movw    $POWER_BUTTON, %ax
        outw    %ax, %dx

        movb    $'R', %al
        call    say

# The BIOS has left the timer running: the processor wakes 18 times a second and looks around.
sleep:
        sti
        cmpb    $0, counting
        jne     count
        hlt

look:   movw    $PM1_STATUS, %dx
        inw     %dx, %ax
        cmpw    $0xffff, %ax            # nobody there: QEMU runs without ACPI
        je      listen
        testw   $POWER_BUTTON, %ax
        jz      listen
        movw    $POWER_BUTTON, %ax      # writing the bit clears it
        outw    %ax, %dx
        cmpb    $0, deaf
        je      power_off

listen:
        movw    $UART_STATUS, %dx
        inb     %dx, %al
        testb   $1, %al
        jz      sleep
        movw    $UART, %dx
        inb     %dx, %al

        cmpb    $'p', %al
        je      power_off
        cmpb    $'h', %al
        je      hibernate
        cmpb    $'r', %al
        je      reset
        cmpb    $'t', %al
        je      triple_fault
        cmpb    $'c', %al
        je      crash
        cmpb    $'k', %al
        je      crash_with_kdump
        cmpb    $'s', %al
        je      suspend
        cmpb    $'w', %al
        je      watchdog
        cmpb    $'x', %al
        je      leave
        cmpb    $'d', %al
        je      be_deaf
        cmpb    $'n', %al
        je      begin_to_count
        cmpb    $'?', %al
        jne     listen
        movb    $'!', %al
        call    say
        jmp     listen

power_off:
        movw    $0x2000, %ax            # SLP_EN, SLP_TYP 0: soft off
        jmp     sleep_state
hibernate:
        movw    $0x2800, %ax            # SLP_EN, SLP_TYP 2: to disk
sleep_state:
        movw    $PM1_CONTROL, %dx
        outw    %ax, %dx
        jmp     sleep

reset:
        movb    $0xfe, %al
        outb    %al, $0x64
        jmp     sleep

triple_fault:
        cli
        lidt    no_interrupts
        int3

crash:
        movb    $1, %al                 # PVPANIC_PANICKED
        jmp     tell_pvpanic
crash_with_kdump:
        movb    $2, %al                 # PVPANIC_CRASHLOADED
tell_pvpanic:
        movw    $0x505, %dx
        outb    %al, %dx
        jmp     sleep

# A machine that wakes starts in its firmware, which jumps to the waking vector in the FACS. That
# table of ACPI is above 1 MB and found by way of RSDP, RSDT and the FADT, which QEMU puts first.
suspend:
        cli
        lgdt    global_descriptors
        movl    %cr0, %eax
        orb     $1, %al
        movl    %eax, %cr0
        movw    $8, %bx
        movw    %bx, %fs                # keeps its limit of 4 GB in real mode
        andb    $0xfe, %al
        movl    %eax, %cr0
        xorw    %bx, %bx
        movw    %bx, %fs

        movl    $0xdfff0, %esi
find_rsdp:
        addl    $16, %esi
        cmpl    $0x20445352, %fs:(%esi) # "RSD "
        jne     find_rsdp
        cmpl    $0x20525450, %fs:4(%esi) # "PTR "
        jne     find_rsdp
        movl    %fs:16(%esi), %esi
        movl    %fs:36(%esi), %esi
        movl    %fs:36(%esi), %esi
        movl    $awake, %fs:12(%esi)
        sti
        movw    $0x2400, %ax            # SLP_EN, SLP_TYP 1: to RAM
        jmp     sleep_state

# Memory has been kept; the devices have been reset.
        .balign 16
awake:
        ljmp    $0, $1f
1:      movl    $0x8000f840, %eax       # a q35's firmware leaves PMBASE and ACPI_EN (LPC, 00:1f.0) as
        movl    $0x601, %ebx            # they were reset; a PC has no such device
        call    configure
        movl    $0x8000f844, %eax
        movl    $0x80, %ebx
        call    configure
        movb    $0x34, %al              # channel 0: 18 times a second again
        outb    %al, $0x43
        xorb    %al, %al
        outb    %al, $0x40
        outb    %al, $0x40
        movb    $0xfe, %al              # no other interrupts
        outb    %al, $0x21
        movw    $PM1_STATUS, %dx        # QEMU pretends that the power button woke it
        movw    $POWER_BUTTON, %ax
        outw    %ax, %dx
        jmp     _start

watchdog:
        movw    $0x443, %dx
        movb    $0xf, %al               # no time left
        outb    %al, %dx
        jmp     sleep

leave:
        movb    $3, %al                 # QEMU exits with 2 * 3 + 1
        outb    %al, $0xf4
        jmp     sleep

be_deaf:
        movb    $1, deaf
        movb    $'!', %al
        call    say
        jmp     listen

begin_to_count:
        movb    $1, counting
        jmp     sleep

count:
        incl    sector
        movw    $0x4300, %ax            # INT 13h: write sectors
        movb    $0x81, %dl
        movw    $packet, %si
        int     $0x13
        jc      look
        movb    sector, %al
        call    say
        jmp     look

packet: .byte   16, 0
        .word   1                       # one sector
        .word   sector, 0               # from here
sector: .quad   0                       # to there

# Writes %ebx to the PCI configuration register of which %eax is the address.
configure:
        movw    $0xcf8, %dx
        outl    %eax, %dx
        movw    $0xcfc, %dx
        movl    %ebx, %eax
        outl    %eax, %dx
        ret

# Writes %al to the serial line, as soon as that has room for it.
say:
        movb    %al, %bl
        movw    $UART_STATUS, %dx
1:      inb     %dx, %al
        testb   $0x20, %al
        jz      1b
        movb    %bl, %al
        movw    $UART, %dx
        outb    %al, %dx
        ret

no_interrupts:
        .word   0
        .long   0

        .balign 8
flat:
        .quad   0                       # never used
        .quad   0x008f92000000ffff      # data, from 0 to 4 GB
global_descriptors:
        .word   . - flat - 1
        .long   flat

        .set    deaf, 0x500             # bytes that the BIOS leaves to others
        .set    counting, 0x501

        .org    510
        .word   0xaa55

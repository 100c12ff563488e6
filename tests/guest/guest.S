# The guest of the tests: one boot sector that does on command what a guest's kernel does when
# it ends, and otherwise sleeps. It boots under TCG in a tenth of a second and needs no disk
# but its own 512 bytes.
#
# It writes R to the serial line when it is ready, and then obeys single letters:
#
#   p  power off (ACPI S5)                r  reset (keyboard controller)
#   h  hibernate (ACPI S4)                t  triple fault
#   c  crash: tell pvpanic of a panic     x  leave through isa-debug-exit, code 7
#   w  let the ib700 watchdog fire        d  be deaf to the power button from now on
#   ?  answer with !
#
# When the power button is pressed it powers off, unless it has been made deaf.
#
# The tests assemble it (tests/testbed/src/guest.rs). Ports: QEMU's PIIX4 power management (0x600), 16550
# UART (0x3f8), pvpanic-isa (0x505), ib700 (0x443), isa-debug-exit (0xf4).

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

        # Only a guest that has asked for it is told of the power button.
        movw    $PM1_ENABLE, %dx
        movw    $POWER_BUTTON, %ax
        outw    %ax, %dx

        movb    $'R', %al
        call    say

# The BIOS has left the timer running: the processor wakes 18 times a second and looks around.
sleep:
        sti
        hlt

        movw    $PM1_STATUS, %dx
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
        cmpb    $'w', %al
        je      watchdog
        cmpb    $'x', %al
        je      leave
        cmpb    $'d', %al
        je      be_deaf
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
        movw    $0x505, %dx
        movb    $1, %al
        outb    %al, %dx
        jmp     sleep

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

# Writes %al to the serial line.
say:
        movw    $UART, %dx
        outb    %al, %dx
        ret

no_interrupts:
        .word   0
        .long   0

        .set    deaf, 0x500             # a byte that the BIOS leaves to others

        .org    510
        .word   0xaa55

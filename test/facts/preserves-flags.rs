//! Probes by asm! that says that it keeps the flags, and by asm! that does not: in the first case the compiler puts an
//! addition in front of the probe, and what goes by its carry after it.
#![no_std]

use core::arch::asm;

#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    loop {}
}

macro_rules! probe {
    ($name:literal, $($option:ident),*) => {
        unsafe {
            asm!(
                "990: nop",
                ".pushsection .note.stapsdt, \"\", \"note\"",
                ".balign 4",
                ".4byte 992f-991f, 994f-993f, 3",
                "991: .asciz \"stapsdt\"",
                "992: .balign 4",
                "993: .8byte 990b, 0, 0",
                ".asciz \"rust\"",
                concat!(".asciz \"", $name, "\""),
                ".asciz \"\"",
                "994: .balign 4",
                ".popsection",
                options(att_syntax, $($option),*)
            )
        }
    };
}

#[no_mangle]
pub extern "C" fn add_kept(a: u64, b: u64) -> u64 {
    let (sum, over) = a.overflowing_add(b);
    probe!("kept", nomem, nostack, preserves_flags);
    if over { b } else { sum }
}

#[no_mangle]
pub extern "C" fn add_lost(a: u64, b: u64) -> u64 {
    let (sum, over) = a.overflowing_add(b);
    probe!("lost", nomem, nostack);
    if over { b } else { sum }
}

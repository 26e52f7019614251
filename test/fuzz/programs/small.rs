//! A program of Rust with probes written as its crates write them: inline assembly and a note. It needs no standard library.
#![no_std]
#![no_main]

use core::arch::asm;

#[link(name = "c")]
extern "C" {
    fn puts(text: *const u8) -> i32;
}

macro_rules! probe {
    ($name:literal, $value:expr) => {
        asm!(
            "990: nop",
            ".pushsection .note.stapsdt, \"\", \"note\"",
            ".balign 4",
            ".4byte 992f-991f, 994f-993f, 3",
            "991: .asciz \"stapsdt\"",
            "992: .balign 4",
            "993: .8byte 990b, _.stapsdt.base, 0",
            concat!(".asciz \"small\"\n.asciz \"", $name, "\""),
            ".asciz \"8@{0}\"",
            "994: .balign 4",
            ".popsection",
            ".ifndef _.stapsdt.base",
            ".pushsection .stapsdt.base,\"aG\",\"progbits\",.stapsdt.base,comdat",
            ".weak _.stapsdt.base",
            ".hidden _.stapsdt.base",
            "_.stapsdt.base: .space 1",
            ".size _.stapsdt.base, 1",
            ".popsection",
            ".endif",
            in(reg) $value as u64,
            options(att_syntax)
        )
    };
}

#[inline(never)]
fn step(text: &[u8], at: usize) -> u64 {
    let value = text[at % text.len()] as u64;
    unsafe { probe!("step", value) };
    value * 31 + at as u64
}

#[no_mangle]
pub extern "C" fn main() -> i32 {
    let mut sum = 0;
    for at in 0..20 {
        sum += step(b"small", at);
    }
    unsafe {
        probe!("end", sum);
        puts(b"small\0".as_ptr());
    }
    (sum % 100) as i32
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    loop {}
}

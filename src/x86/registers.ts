/** The general-purpose registers by their numbers and names. */

/** Numbers of the general-purpose registers, as instructions encode them. */
export const RAX = 0;
export const RDX = 2;
export const RSP = 4;
export const RBP = 5;
export const RDI = 7;
export const REGISTER_COUNT = 16;
/** No register. */
export const NONE = -1;

const names = "rax rcx rdx rbx rsp rbp rsi rdi r8 r9 r10 r11 r12 r13 r14 r15".split(" ");

/** The number of a register by its 64-bit name, or NONE where it is no general-purpose register. */
export const registerNumber = (name: string): number => names.indexOf(name);

export const registerName = (register: number): string => names[register] ?? "none";

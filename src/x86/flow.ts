/** What an instruction does to the flow of control, as bits. */
export const Flow = {
  Next: 0,
  /** Direct jmp. */
  Jump: 1,
  /** Direct conditional branch: jcc, loop, jrcxz. */
  Conditional: 2,
  /** Direct or indirect call. */
  Call: 4,
  /** jmp through a register or memory. */
  IndirectJump: 8,
  Return: 16,
  /** xbegin: may continue at its target. */
  Transaction: 32,
  /** int3, ud2, hlt, syscall, int n: the kernel sees or sets the instruction pointer. */
  Trap: 64,
  /** Any nop, of any length. */
  Nop: 128,
  /** endbr64: a place that indirect branches may lead to. */
  Landing: 256,
  /** `lea disp(%rip)`: makes an address of this image. */
  Lea: 512,
} as const;

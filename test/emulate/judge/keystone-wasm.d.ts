/** What is used here of keystone-wasm; its package does not lead TypeScript to its own declarations. */
declare module "keystone-wasm" {
  export const Const: { readonly KS_ARCH_X86: number; readonly KS_MODE_64: number };
  export function loadKeystone(): Promise<void>;
  export class Keystone {
    constructor(arch: number, mode: number);
    asm(text: string, options?: { address?: number }): Uint8Array;
  }
}

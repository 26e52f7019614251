/** The build-id of a rewritten file that is to have one of its own. */
import { createHash } from "node:crypto";
import type { BuildId } from "../elf/build-id.js";

/**
 * A build-id that depends on the old one and on nothing else, so that it is the same on every machine. It is as long as
 * the old one, at most 64 bytes.
 */
export const derivedBuildId = ({ text, size }: BuildId): Uint8Array =>
  createHash("sha512").update("usdt-nop5\0").update(text).digest().subarray(0, size);

/**
 * A check that cannot be made on this machine says so in the log: the test runner itself prints no more of a skipped test
 * than that there was one.
 */
export function skipBecause(what: string, reason: string | null): boolean {
  if (reason !== null) console.warn(`SKIPPED: ${what}: ${reason}`);
  return reason !== null;
}

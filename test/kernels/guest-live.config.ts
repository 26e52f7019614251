/**
 * The part of the live tests that says what BPF programs see, on a test kernel: on this machine it is one of `npm
 * test`.
 */
import guest from "./guest.config.js";

export default {
  ...guest,
  test: { ...guest.test, include: ["test/live/sessions.test.ts"], setupFiles: ["test/each-file.ts"] },
};

/** All of SSE and SSE2 that works on xmm registers, and the control words. */
import type { Family } from "../operands.js";
import { sseCompare } from "./sse-compare.js";
import { sseControl } from "./sse-control.js";
import { sseConvert } from "./sse-convert.js";
import { sseFloat } from "./sse-float.js";
import { sseInteger } from "./sse-integer.js";
import { sseMove } from "./sse-move.js";
import { sseShift } from "./sse-shift.js";
import { sseShuffle } from "./sse-shuffle.js";

export const sse: readonly Family[] = [
  sseMove,
  sseInteger,
  sseShift,
  sseShuffle,
  sseFloat,
  sseCompare,
  sseConvert,
  sseControl,
];

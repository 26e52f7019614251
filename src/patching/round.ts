/**
 * A round: a way through the code of a probe that has two places, of which a pass is to run one. What is owed to the
 * consumer is a matter of the probe, whichever place runs: from the question on to where both ways meet it is called
 * once, if both places were attached all the time, and never twice. While a tool has attached one place and not the
 * other yet, or not any more, a hit may be missing.
 */
import type { Violation } from "../explore/system.js";
import { Property, violation } from "./change.js";
import type { Setup } from "./setup.js";
import { isOn, type Registry, type Round } from "./state.js";

/** The round of a thread that comes to the question. */
export const begunRound = (setup: Setup, registry: Registry): Round => ({
  isOwed: setup.sites.every(({ index, isRefused }) => !isRefused && isOn(registry.sites[index]!.attachment)),
  hits: 0,
});

/** The round once the consumer was called at one of the places. */
export const withHit = (round: Round | null): Round | null => round && { ...round, hits: round.hits + 1 };

/** The round once nothing is owed for it any more. */
export const notOwed = (round: Round | null): Round | null => round && { ...round, isOwed: false };

/** What was wrong with a round, at its end. */
export function roundVerdict({ isOwed, hits }: Round): Violation | undefined {
  if (hits > 1) return violation(Property.Hits, "One pass of a probe with two places called the consumer twice.");
  if (isOwed && hits === 0)
    return violation(
      Property.Hits,
      "A pass of a probe, both of whose places are attached, did not reach the consumer.",
    );
  return undefined;
}

/** What a thread can do next: by where it is. */
import { callSteps } from "./calls.js";
import type { Change, Situation } from "./change.js";
import { stepSteps, trapSteps } from "./trap.js";
import { userSteps } from "./user.js";

export function threadSteps(situation: Situation): Change[] {
  switch (situation.thread.mode) {
    case "user":
      return userSteps(situation);
    case "trapped":
    case "handling":
    case "wants-to-patch":
    case "patching":
      return trapSteps(situation);
    case "stepping":
      return stepSteps(situation);
    case "called":
    case "handling-call":
      return callSteps(situation);
    default:
      return [];
  }
}

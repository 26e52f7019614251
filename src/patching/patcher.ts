/**
 * The actor that attaches and detaches, as uprobe_register and uprobe_unregister do: site by site, and for each site in
 * one address space after the other, under its lock.
 *
 * Attaching: the probe can be found from now on and has its consumer; then int3 over byte 0. Detaching: the consumer
 * goes; then what is patched in goes (the call, by its phases, or int3 alone); then the probe cannot be found any more;
 * and when nobody is in a handler that may have found it before, detaching is complete.
 */
import { type Change, Property, violation } from "./change.js";
import type { PatchedSite, Setup } from "./setup.js";
import type { Patcher, Registered, Registry, Space } from "./state.js";
import { BELOW_ZERO, carryOut, groupsOf, install, lowerSemaphore, removeInt3 } from "./writes.js";

type InRegistry = "attach" | "attached" | "join" | "joined" | "detach" | "forget" | "complete";
type Operation =
  | { readonly kind: InRegistry; readonly site: number }
  | { readonly kind: "install" | "remove"; readonly site: number; readonly space: number };

/**
 * What is done in all: so many times attach everywhere, detach everywhere. What the kernel refuses is left out.
 * @param joins in which of these another tracer comes to the same probes once they are attached, and goes with the
 * first
 */
export function scriptFor(
  sites: readonly PatchedSite[],
  spaces: number,
  toggles: number,
  joins: readonly number[],
): readonly Operation[] {
  const taken = sites.filter(({ isRefused }) => !isRefused).map(({ index }) => index);
  const script: Operation[] = [];
  const everywhere = (kind: "install" | "remove", site: number): Operation[] =>
    Array.from({ length: spaces }, (_, space) => ({ kind, site, space }));
  for (let i = 0; i < toggles; i++) {
    for (const site of taken)
      script.push({ kind: "attach", site }, ...everywhere("install", site), { kind: "attached", site });
    if (joins.includes(i))
      for (const site of taken)
        script.push({ kind: "join", site }, ...everywhere("install", site), { kind: "joined", site });
    for (const site of taken)
      script.push(
        { kind: "detach", site },
        ...everywhere("remove", site),
        { kind: "forget", site },
        { kind: "complete", site },
      );
  }
  return script;
}

interface PatcherSituation {
  readonly setup: Setup;
  readonly script: readonly Operation[];
  readonly actor: number;
  readonly patcher: Patcher;
  readonly registry: Registry;
  readonly spaces: readonly Space[];
}

/** The step of the patcher: one at most. */
export function patcherSteps(situation: PatcherSituation): Change[] {
  const { script, patcher, spaces } = situation;
  let at = patcher.at;
  // Address spaces that nobody lives in are left out.
  for (; at < script.length; at++) {
    const operation = script[at]!;
    if (!("space" in operation) || spaces[operation.space]!.isAlive) break;
  }
  const operation = script[at];
  if (operation === undefined) return [];
  const here = { ...situation, patcher: { ...patcher, at } };
  return "space" in operation ? inSpace(here, operation) : [inRegistry(here, operation)];
}

const JOINS = "another tracer registers the probe as well";
/** The label of the step after which another tracer is there. */
export const HAS_JOINED = "it is there as well";

const stillRaised = violation(Property.Semaphore, "The semaphore is not zero once the probe is detached.");

const next = ({ at, hasFailed }: Patcher): Patcher => ({ at: at + 1, group: 0, hasFailed });

function inRegistry(
  { setup, patcher, registry, spaces }: PatcherSituation,
  { kind, site }: Operation & { readonly kind: InRegistry },
): Change {
  const registered = registry.sites[site]!;
  const step = (label: string, change: Partial<Registered>, walks: boolean): Change => ({
    label,
    patcher: next(patcher),
    registry: { ...registry, walks, sites: registry.sites.map((s, i) => (i === site ? { ...s, ...change } : s)) },
  });
  const attachment = registered.attachment + 1;
  switch (kind) {
    case "attach":
      return { ...step("registers the probe", { isKnown: true, hasConsumer: true, attachment }, true), ages: site };
    case "attached":
      return { ...step("registering is complete", { attachment }, false), ages: site };
    case "join":
      return step(JOINS, {}, true);
    case "joined":
      return step(HAS_JOINED, {}, false);
    case "detach":
      return { ...step("removes the consumer", { hasConsumer: false, attachment }, true), ages: site };
    case "forget": {
      const keeps = patcher.hasFailed && setup.protocol.keepsAfterError;
      const forgotten = keeps ? {} : { isKnown: false, hasFailed: false };
      const label = keeps ? "keeps the probe, which is not gone everywhere" : "forgets the probe";
      return { ...step(label, forgotten, false), patcher: { ...next(patcher), hasFailed: false } };
    }
    default:
      return {
        ...step("detaching is complete", { attachment }, false),
        ages: site,
        ...(setup.sites.length === 1 && spaces.some((space) => space.semaphore !== 0 && !space.isOverwritten)
          ? { violation: stillRaised }
          : {}),
        ...(setup.protocol.waitsForReaders ? { needs: { noReaderOf: site } } : {}),
      };
  }
}

function inSpace(
  situation: PatcherSituation,
  operation: Operation & { readonly kind: "install" | "remove" },
): Change[] {
  const { setup, spaces, actor, patcher, registry } = situation;
  const space = spaces[operation.space]!;
  if (space.lock >= 0 && space.lock !== actor) return [];
  const site = setup.sites[operation.site]!;
  const base = { spaceIndex: operation.space, patcher: next(patcher) };
  if (operation.kind === "install") return [{ ...base, ...install(setup, registry, space, site) }];
  if (patcher.group > 0 || isCall(setup, space, site)) return unoptimize(situation, operation.space, site);
  return [remove(situation, operation.space, site)];
}

const isCall = (setup: Setup, space: Space, site: PatchedSite): boolean =>
  setup.protocol.looksInTheOther && setup.isOptimized(space, site);

const released = (setup: Setup, space: Space): Space => ({
  ...space,
  lock: -1,
  trampolines: setup.protocol.unmapsTrampoline
    ? space.trampolines.map((t) => ({ ...t, isMapped: false, isKnown: false }))
    : space.trampolines,
});

/** Takes int3 away, where that is what is there. */
function remove({ setup, spaces, patcher }: PatcherSituation, index: number, site: PatchedSite): Change {
  const { label, space, bytes, isRefused } = removeInt3(setup, spaces[index]!, site);
  const after = { ...next(patcher), hasFailed: patcher.hasFailed || isRefused };
  return { label, spaceIndex: index, space: released(setup, space), patcher: after, ...(bytes && { bytes }) };
}

/** The next group of phases; the lock is held until the last one. Each write may be refused, or fail. */
function unoptimize(situation: PatcherSituation, index: number, site: PatchedSite): Change[] {
  const { setup, spaces, actor, patcher, registry } = situation;
  const groups = groupsOf(setup.protocol.unoptimize, setup.protocol.stepsApart);
  const group = groups[patcher.group]!;
  const space = spaces[index]!;
  const stopped = (label: string): Change => ({
    label,
    spaceIndex: index,
    space: released(setup, space),
    patcher: { ...next(patcher), hasFailed: true },
    syncs: group[0]!.kind === "sync",
  });
  // The semaphore belongs to the write that ends it.
  const isEnd = group.some((phase) => phase.kind === "write" && phase.what === "original" && phase.from === 0);
  const lowered = isEnd ? lowerSemaphore(setup, space) : space;
  if (lowered === null) return [stopped(BELOW_ZERO)];
  const done = carryOut(setup, lowered, site, group, 0);
  if (done.isRefused) return [stopped(done.label)];
  const isLast = patcher.group === groups.length - 1;
  const step: Change = {
    label: done.label,
    spaceIndex: index,
    space: isLast ? released(setup, done.space) : { ...done.space, lock: actor },
    patcher: isLast ? next(patcher) : { ...patcher, group: patcher.group + 1 },
    syncs: done.syncs,
    ...(done.bytes && { bytes: done.bytes }),
  };
  if (registry.errors === 0 || done.bytes === undefined) return [step];
  return [step, { ...stopped("a write fails"), registry: { ...registry, errors: registry.errors - 1 } }];
}

/**
 * The actor that attaches and detaches, as uprobe_register and uprobe_unregister do: site by site, and for each site in
 * one address space after the other, under its lock.
 *
 * Attaching: the probe can be found from now on and has its consumer; then int3 over byte 0. Detaching: the consumer
 * goes; then what is patched in goes (the call, by its phases, or int3 alone); then the probe cannot be found any more;
 * and when nobody is in a handler that may have found it before, detaching is complete.
 */
import { type Change, Property, violation, withCode } from "./change.js";
import { INT3 } from "./protocol.js";
import type { PatchedSite, Setup } from "./setup.js";
import type { Patcher, Registered, Registry, Space } from "./state.js";
import { carryOut, groupsOf } from "./trap.js";

type Operation =
  | { readonly kind: "attach" | "attached" | "detach" | "forget" | "complete"; readonly site: number }
  | { readonly kind: "install" | "remove"; readonly site: number; readonly space: number };

/** What is done in all: so many times attach everywhere, detach everywhere. What the kernel refuses is left out. */
export function scriptFor(sites: readonly PatchedSite[], spaces: number, toggles: number): readonly Operation[] {
  const taken = sites.filter(({ isRefused }) => !isRefused).map(({ index }) => index);
  const script: Operation[] = [];
  const everywhere = (kind: "install" | "remove", site: number): Operation[] =>
    Array.from({ length: spaces }, (_, space) => ({ kind, site, space }));
  for (let i = 0; i < toggles; i++) {
    for (const site of taken)
      script.push({ kind: "attach", site }, ...everywhere("install", site), { kind: "attached", site });
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

const stillRaised = violation(Property.Semaphore, "The semaphore is not zero once the probe is detached.");

const next = ({ at }: Patcher): Patcher => ({ at: at + 1, group: 0 });

function inRegistry(
  { setup, patcher, registry, spaces }: PatcherSituation,
  { kind, site }: Operation & { readonly kind: "attach" | "attached" | "detach" | "forget" | "complete" },
): Change {
  const registered = registry.sites[site]!;
  const step = (label: string, change: Partial<Registered>, walks: boolean): Change => ({
    label,
    patcher: next(patcher),
    registry: { walks, sites: registry.sites.map((s, i) => (i === site ? { ...s, ...change } : s)) },
  });
  const attachment = registered.attachment + 1;
  switch (kind) {
    case "attach":
      return { ...step("registers the probe", { isKnown: true, hasConsumer: true, attachment }, true), ages: site };
    case "attached":
      return { ...step("registering is complete", { attachment }, false), ages: site };
    case "detach":
      return { ...step("removes the consumer", { hasConsumer: false, attachment }, true), ages: site };
    case "forget":
      return step("forgets the probe", { isKnown: false, hasFailed: false }, false);
    default:
      return {
        ...step("detaching is complete", { attachment }, false),
        ages: site,
        ...(setup.sites.length === 1 && spaces.some(({ semaphore }) => semaphore !== 0)
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
  const { setup, spaces, actor, patcher } = situation;
  const space = spaces[operation.space]!;
  if (space.lock >= 0 && space.lock !== actor) return [];
  const site = setup.sites[operation.site]!;
  const base = { spaceIndex: operation.space, patcher: next(patcher) };
  if (operation.kind === "install") return [{ ...base, ...install(setup, space, site) }];
  if (patcher.group > 0 || isCall(setup, space, site)) return [unoptimize(situation, operation.space, site)];
  return [{ ...base, ...removeInt3(setup, space, site) }];
}

const isCall = (setup: Setup, space: Space, site: PatchedSite): boolean =>
  setup.protocol.looksInTheOther && setup.isOptimized(space, site);

function install(setup: Setup, space: Space, site: PatchedSite): Pick<Change, "label" | "space" | "bytes"> {
  const counted = { ...space, semaphore: space.semaphore + (setup.program.semaphore === null ? 0 : 1) };
  if (isCall(setup, space, site)) return { label: "finds the call patched in", space: counted };
  const bytes = Uint8Array.of(INT3);
  return { label: "writes int3", bytes, space: withCode(counted, site, 0, bytes) };
}

const released = (setup: Setup, space: Space): Space => ({
  ...space,
  lock: -1,
  semaphore: space.semaphore - (setup.program.semaphore !== null && setup.protocol.lowersSemaphore ? 1 : 0),
  trampolines: setup.protocol.unmapsTrampoline
    ? space.trampolines.map((t) => ({ ...t, isMapped: false }))
    : space.trampolines,
});

/** Byte 0 of the nop, where int3 is. Anything else there is nothing that the kernel knows, and stays. */
function removeInt3(setup: Setup, space: Space, site: PatchedSite): Pick<Change, "label" | "space" | "bytes"> {
  if (setup.codeAt(space, site)[0] !== INT3) return { label: "finds no int3", space: released(setup, space) };
  const bytes = site.original.slice(0, 1);
  return { label: "writes byte 0 of the nop", bytes, space: released(setup, withCode(space, site, 0, bytes)) };
}

/** The next group of phases; the lock is held until the last one. */
function unoptimize({ setup, spaces, actor, patcher }: PatcherSituation, index: number, site: PatchedSite): Change {
  const groups = groupsOf(setup.protocol.unoptimize, setup.protocol.stepsApart);
  const done = carryOut(setup, spaces[index]!, site, groups[patcher.group]!, 0);
  const isLast = patcher.group === groups.length - 1;
  return {
    label: done.label,
    spaceIndex: index,
    space: isLast ? released(setup, done.space) : { ...done.space, lock: actor },
    patcher: isLast ? next(patcher) : { ...patcher, group: patcher.group + 1 },
    syncs: done.syncs,
    ...(done.bytes === undefined ? {} : { bytes: done.bytes }),
  };
}

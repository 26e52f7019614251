/**
 * What the rewriter claims of functions that changed, held against their code: instruction by instruction, and against
 * what was found by following it. Nothing is believed; a claim that fails is worse than none.
 *
 *     nothing is claimed of a function, or of one of its transfers or addresses       unproved
 *     a claim that the code does not bear out                                         different
 */
import { hex } from "../../address.js";
import type { Certificate, Claim, TableClaim, Transfer } from "../../rewritten/certificate.js";
import { type Decoder, iced } from "./decode.js";
import type { Findings, Formation } from "./findings.js";
import type { Group } from "./groups.js";
import { type Parts, Use } from "./parts.js";
import type { Program } from "./program.js";
import { lastNotAfter, lowerBound } from "./spans.js";
import type { Failing } from "./testimony.js";
import { strangeness, type Value } from "./values.js";

const { FlowControl, OpKind } = iced;

export class Certificates {
  /** By the start of their parts: which certificate speaks of a part. */
  private readonly spans: readonly { readonly start: number; readonly end: number; readonly of: Certificate }[];
  private readonly failing = new Map<Certificate, Failing | undefined>();

  constructor(
    private readonly program: Program,
    private readonly parts: Parts,
    private readonly decoder: Decoder,
    /** What was found in the group around an address. */
    private readonly findings: (address: number) => Findings | undefined,
    certificates: readonly Certificate[],
  ) {
    this.spans = certificates
      .flatMap((of) => of.parts.map(({ start, end }) => ({ start, end, of })))
      .sort((a, b) => a.start - b.start);
  }

  /**
   * What is wrong with what is claimed of a function, all of its parts; undefined where nothing is. Of code that is in
   * no certificate nothing may have to be claimed.
   */
  failingOf(group: Group): Failing | undefined {
    const certificates = new Set<Certificate>();
    const unclaimed: Failing[] = [];
    for (const { start, end } of group.parts)
      for (let at = start; at < end; ) {
        const next = this.spans[lastNotAfter(this.spans, at) + 1];
        const span = this.spans[lastNotAfter(this.spans, at)];
        if (span !== undefined && at < span.end) {
          certificates.add(span.of);
          at = span.end;
          continue;
        }
        const stop = Math.min(end, next?.start ?? end);
        unclaimed.push(...this.unclaimed(at, stop, NOTHING), ...this.unnamed(at, stop, new Set()));
        at = stop;
      }
    if (certificates.size === 0) return unproved(`nothing is claimed of the code at ${hex(group.parts[0]!.start)}`);
    for (const one of certificates) if (!this.failing.has(one)) this.failing.set(one, this.check(one));
    const problems = [...[...certificates].flatMap((one) => this.failing.get(one) ?? []), ...unclaimed];
    return problems.find(({ verdict }) => verdict === "different") ?? problems[0];
  }

  private check(certificate: Certificate): Failing | undefined {
    const problems = [...this.wrongParts(certificate), ...this.transfers(certificate), ...this.addresses(certificate)];
    return problems.find(({ verdict }) => verdict === "different") ?? problems[0];
  }

  private *wrongParts({ parts }: Certificate): Iterable<Failing> {
    for (const { start, end } of parts)
      if (!this.program.isCode(start) || this.parts.owner(start) !== this.parts.owner(end - 1))
        yield different(`what is claimed to be a part of a function at ${hex(start)} is none`);
  }

  private *transfers({ parts, transfers }: Certificate): Iterable<Failing> {
    const claimed = new Map<number, Transfer>(transfers.map((t) => [t.address, t]));
    for (const { start, end } of parts) yield* this.unclaimed(start, end, claimed);
    for (const transfer of transfers) yield* this.transfer(transfer);
  }

  /** Computed transfers of which nothing is claimed. */
  private *unclaimed(start: number, end: number, claimed: ReadonlyMap<number, Transfer>): Iterable<Failing> {
    for (let at = start; at < end; ) {
      const i = this.decoder.at(at);
      if (i === undefined || !this.parts.isStart(at)) break;
      const { flowControl, length } = i;
      const isComputed = flowControl === FlowControl.IndirectBranch || flowControl === FlowControl.IndirectCall;
      // Stubs go by words that the loader fills, and are no function's: who calls them is joined with them.
      const isStub = claimed === NOTHING && i.isIpRelMemoryOperand;
      if (isComputed && !isStub && !claimed.has(at)) yield unproved(`nothing is claimed of the transfer at ${hex(at)}`);
      at += length;
    }
  }

  /**
   * Addresses inside of functions that are made, and of which nothing is claimed. What is claimed of others is left
   * over.
   */
  private *unnamed(start: number, end: number, claimed: Set<string>): Iterable<Failing> {
    const { from, to, use, count } = this.parts.references;
    for (let i = lowerBound(from, start); i < count && from[i]! < end; i++) {
      if (use[i] !== Use.Lea && use[i] !== Use.Immediate) continue;
      const part = this.parts.at(to[i]!);
      if (part === undefined || part.isGap || part.heads.includes(to[i]!)) continue;
      if (!claimed.delete(`${from[i]},${to[i]}`))
        yield unproved(`nothing is claimed of ${hex(to[i]!)}, which the instruction at ${hex(from[i]!)} makes`);
    }
  }

  private *transfer({ address, claims }: Transfer): Iterable<Failing> {
    const i = this.parts.isStart(address) ? this.decoder.at(address) : undefined;
    if (i === undefined || !mayBeComputed(i.flowControl)) {
      yield different(`there is no transfer at ${hex(address)}, of which one is claimed`);
      return;
    }
    // A direct branch leads to code that jumps by a register; where that leads is followed there.
    if (i.opCount > 0 && i.opKind(0) === OpKind.NearBranch64) return;
    const found = this.findings(address);
    const value = found?.transfers.get(address)?.value;
    if (found === undefined || value === undefined) return;
    const tables = claims.filter((claim) => claim.kind === "table");
    const formations = [...found.formations.values()];
    for (const table of tables) {
      // Words that are addresses themselves are named by what the loader does with them.
      const isPointers = table.base === 0 && this.program.isConstant(table.first);
      const isFilled = isPointers && (this.program.isFixed || this.program.pointerAt(table.first) !== undefined);
      if (isFilled || (isPointers && value.some((atom) => atom.table?.first === table.first))) continue;
      if (formations.some((f) => isSame(f, table))) continue;
      // A sum that may be among what is handed over: it is more than needs to be claimed.
      if (claims.some(({ kind }) => kind === "pointer")) continue;
      const why = `the table at ${hex(table.first)} that the transfer at ${hex(address)} is claimed to go by is another`;
      yield strangeness(value, this.program.isFixed) === undefined ? different(why) : unproved(why);
    }
    // What a function puts where its return address was it has made before: that is claimed there.
    const isReturn = i.flowControl === FlowControl.Return && claims.some(({ kind }) => kind === "pointer");
    for (const atom of isReturn ? [] : value)
      if (!this.isClaimed(atom, claims, formations))
        yield unproved(`the transfer at ${hex(address)} may go by more than is claimed`);
  }

  private isClaimed({ kind, n, flag, table }: Value[number], claims: readonly Claim[], known: readonly Formation[]) {
    if (kind === "sum" && flag) return claims.some((claim) => claim.kind === "table" && claim.base === n);
    // Who makes an address hands it over.
    if (kind === "number" && this.program.isCode(n))
      return claims.some((claim) => claim.kind !== "exact" || claim.addresses.some((a) => a === n));
    // Whoever handed over an address has made it, and is asked for that.
    if (kind === "given" && claims.some((claim) => claim.kind === "pointer")) return true;
    if (table === undefined || !known.some((f) => f.base === 0 && f.table.first === table.first)) return true;
    return claims.some((claim) => claim.kind === "table" && claim.base === 0 && claim.first === table.first);
  }

  private *addresses({ parts, made }: Certificate): Iterable<Failing> {
    const claimed = new Set(made.map(({ address, value }) => `${address},${value}`));
    for (const { start, end } of parts) yield* this.unnamed(start, end, claimed);
    for (const { address, value } of made) {
      if (!claimed.has(`${address},${value}`)) continue;
      // A sum: found by following, maybe at another of the instructions that make it.
      if (this.findings(address)?.made.has(value) === true) continue;
      yield different(`the instruction at ${hex(address)} does not make ${hex(value)}, as is claimed`);
    }
  }
}

/** What is claimed of code that no certificate covers. */
const NOTHING: ReadonlyMap<number, Transfer> = new Map();

const unproved = (why: string): Failing => ({ verdict: "unproved", why });
const different = (why: string): Failing => ({ verdict: "different", why });

const mayBeComputed = (flow: number): boolean =>
  flow === FlowControl.IndirectBranch ||
  flow === FlowControl.IndirectCall ||
  flow === FlowControl.Return ||
  flow === FlowControl.UnconditionalBranch ||
  flow === FlowControl.Call;

const isSame = ({ base, minus, table }: Formation, claim: TableClaim): boolean =>
  base === claim.base &&
  minus === claim.minus &&
  table.first === claim.first &&
  table.stride === claim.stride &&
  table.width === claim.width &&
  (table.width === 8 || table.signed === claim.signed);

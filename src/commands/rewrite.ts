/**
 * `usdt-nop5 rewrite FILE`: read, rewrite, write, report.
 *
 * The place of the output is checked before the work and the output is there before the report is printed, so that
 * whoever reads the report can use the file.
 */
import { parseElf } from "../elf/image.js";
import { type OpenInput, withInput } from "../files/input.js";
import { type OutputPlace, withPlace, writeOutput } from "../files/output.js";
import { type Extras, extrasOf } from "../files/privileges.js";
import { explanation, planDocument, sitePlanDocument } from "../report/plan.js";
import { type RewriteRun, rewriteDocument, rewriteText } from "../report/rewrite.js";
import { document, makeStyle } from "../report/text.js";
import type { PlanReport } from "../rewrite/plan-report.js";
import { rewrite as rewriteImage } from "../rewrite/rewrite.js";
import type { Hazard, Kernel, Layout, SiteReport } from "../rewritten/contract.js";
import type { HazardCode } from "../rewritten/hazard-codes.js";
import { wholeFile } from "../sparse-content.js";
import type { ProbePattern } from "../usdt/pattern.js";
import { destinationOf, newFileHazard, type OutputOptions, writeOptions } from "./output-options.js";
import { complain, print, reportOn, type Streams, wantsColours } from "./streams.js";

export interface RewriteCommandOptions extends OutputOptions {
  readonly kernel: Kernel;
  readonly layout: Layout;
  readonly only?: readonly ProbePattern[];
  readonly strict?: boolean;
  /** Hazards that are known: people are not told of them again. */
  readonly accept?: readonly HazardCode[];
  readonly dryRun?: boolean;
  /** Probes of which the report says what was tried. */
  readonly explain?: readonly ProbePattern[];
  /** The whole plan on standard output, the report on standard error. */
  readonly planJson?: boolean;
  readonly newBuildId?: boolean;
  readonly tableAtEnd?: boolean;
  readonly keepOffsets?: boolean;
  /** False with --no-fork-guard. */
  readonly forkGuard?: boolean;
}

/**
 * Rewrites a file.
 * @returns the exit status: 3 where --strict and a probe was skipped, or a pattern of --only matches none
 * @throws InputError where it cannot be done; then nothing was written
 */
export function rewrite(path: string, options: RewriteCommandOptions, streams: Streams): Promise<number> {
  return withInput(path, options.follow ?? true, (input) =>
    options.dryRun
      ? rewriteTo(null, input, options, streams)
      : withPlace(input, destinationOf(path, options, ".nop5"), writeOptions(options), (place) =>
          rewriteTo(place, input, options, streams),
        ),
  );
}

/** @param place null to write nothing */
async function rewriteTo(
  place: OutputPlace | null,
  input: OpenInput,
  options: RewriteCommandOptions,
  streams: Streams,
): Promise<number> {
  const { path } = input;
  const image = parseElf(input.bytes, input);
  const patterns = options.only ?? [];
  // Beside the work, and while this process is small: to start another one takes its memory to be copied, page table by
  // table.
  const extras = extrasOf(input);

  const result = rewriteImage(image, {
    kernel: options.kernel,
    layout: options.layout,
    only: patterns.map((pattern) => pattern.text),
    newBuildId: options.newBuildId ?? false,
    tableAtEnd: options.tableAtEnd ?? false,
    keepOffsets: options.keepOffsets ?? false,
    forkGuard: options.forkGuard ?? true,
  });
  const { content } = result;
  const hazards = [
    ...(content === null ? [] : privilegeHazard(await extras)),
    ...(options.inPlace ? [] : newFileHazard(await extras)),
  ];
  const report = { ...result.report, hazards: [...result.report.hazards, ...hazards] };
  for (const [option, asked] of [["--only", patterns] as const, ["--explain", options.explain ?? []] as const])
    for (const pattern of asked)
      if (!report.sites.some(pattern.matches))
        await complain(streams, `${path}: ${option} ${pattern.text} matches no probe`);

  // A probe that was not asked for has not been left out against anybody's will.
  const wanted = report.sites.filter((site) => patterns.length === 0 || patterns.some((p) => p.matches(site)));
  const misses = patterns.some((pattern) => !report.sites.some(pattern.matches));
  const strict = options.strict !== true ? null : misses ? "unmatched" : wanted.some(isSkipped) ? "strict" : null;
  const fails = strict !== null;
  const unwritten = strict ?? (place === null ? "dry run" : null);
  if (place !== null && !fails && !(content === null && place.inPlace))
    await writeOutput(input, content ?? wholeFile(input), place, writeOptions(options));

  const run: RewriteRun = { input: path, output: unwritten === null ? place!.path : null, unwritten, report };
  await reportOn(run.output, streams, () => tell(run, result.plan, options, streams));
  return fails ? 3 : 0;
}

const isSkipped = (site: SiteReport): boolean => site.status === "skipped";

/** Prints the report, and what was planned as far as it was asked for. */
async function tell(
  run: RewriteRun,
  plan: () => PlanReport,
  { json, planJson, explain = [], accept = [] }: RewriteCommandOptions,
  streams: Streams,
): Promise<void> {
  const explained = explain.length === 0 ? [] : plan().sites.filter((s) => explain.some((p) => p.matches(s.report)));
  if (json) {
    const told = explain.length === 0 ? {} : { explain: explained.map(sitePlanDocument) };
    return print(streams, document({ ...rewriteDocument(run), ...told }));
  }
  // The document has standard output for itself.
  const out = planJson ? streams.stderr : streams.stdout;
  const style = makeStyle(wantsColours(out));
  const text = [rewriteText(run, style, accept), ...explained.map((site) => explanation(site, style))].join("");
  await print({ ...streams, stdout: out }, text);
  if (planJson) await print(streams, document(planDocument(run.input, plan())));
}

/**
 * A program with privileges is worth a second look, and whoever tests for them by a signature will notice the change.
 */
function privilegeHazard({ privileges }: Extras): Hazard[] {
  if (privileges.length === 0) return [];
  return [
    {
      code: "privileged",
      message: `the file runs with more rights than its caller (${privileges.join(", ")}); on every kernel whoever may trace it sees what it does (--drop-attribute owner, xattr leaves them out)`,
    },
  ];
}
